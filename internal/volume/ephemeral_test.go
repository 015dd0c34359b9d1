// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
)

// gone checks that nothing of an ephemeral volume is left but its name.
func gone(t *testing.T, n *volumetest.Node) {
	t.Helper()
	clean(t, n)
	if left, err := filepath.Glob(filepath.Join(n.Paths.VolumeDir("tmp"), "[^.]*")); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// An ephemeral volume needs no key of the node, is encrypted like any other while it is held, opens with nothing that is on the disk or in the node, and
// is empty each time.
func TestEphemeral(t *testing.T) {
	n := volumetest.NewNode(t)
	n.Provider.Fail(kek.ErrUnavailable)
	create(t, n, "tmp", "ephemeral=true", "size=64M")
	gone(t, n)
	if _, made, err := n.Manager().Create(t.Context(), spec(t, n, "tmp", "ephemeral=true")); err != nil || made {
		t.Errorf("made %t, %v", made, err)
	}
	if _, _, err := n.Manager().Create(t.Context(), spec(t, n, "tmp")); !errors.Is(err, volume.ErrExists) { // F10
		t.Errorf("got %v", err)
	}
	for range 2 {
		path := mount(t, n, "tmp", docker("a"))
		if got := n.Get(path, "canary"); got != "" {
			t.Errorf("it was not empty: %q", got)
		}
		n.Put(path, "canary", canary)
		if again := mount(t, n, "tmp", docker("b")); n.Get(again, "canary") != canary {
			t.Error("two users see two volumes")
		}
		info, err := n.Manager().Inspect(t.Context(), "tmp")
		if err != nil || info.State != volume.StateMounted || len(info.Slots) > 0 || len(info.Warnings) > 0 {
			t.Errorf("got %+v, %v", info, err)
		}
		if slots := n.Slots(image(n, "tmp")); slots != 0 {
			t.Errorf("its header has %d slots", slots)
		}
		for _, id := range []string{"a", "b"} {
			if err := n.Manager().Unmount(t.Context(), "tmp", id); err != nil {
				t.Error(err)
			}
		}
		gone(t, n)
	}
	if err := n.Manager().Unlockable(t.Context(), "tmp"); err != nil {
		t.Error(err)
	}
	if uses, err := n.Manager().KeyUses(t.Context()); err != nil || len(uses) > 0 {
		t.Errorf("got %+v, %v", uses, err)
	}
	if _, err := n.Manager().Rotate(t.Context(), "tmp", "agent"); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("rotate: %v", err)
	}
	if _, err := n.Manager().Grow(t.Context(), "tmp", 128<<20); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("grow: %v", err)
	}
	// A reboot ends it too.
	n.Put(mount(t, n, "tmp", docker("a")), "canary", canary)
	n.Reboot()
	if err := n.Manager().Reconcile(t.Context()); err != nil {
		t.Error(err)
	}
	gone(t, n)
	if err := n.Manager().Remove(t.Context(), "tmp"); err != nil {
		t.Error(err)
	}
	if _, err := volume.ParseOptions("tmp", map[string]string{"ephemeral": "true", "backing": "device", "device": "/dev/x"}, n.Defaults); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("on a device that exists: %v", err)
	}
}

// F9: killed or failed at each write of a mount and of an unmount, alone or with the machine. The next Mount gives an empty volume, and then nothing is left.
func TestEphemeralAtEachWrite(t *testing.T) {
	doMount := func(m *volume.Manager) error {
		_, err := m.Mount(t.Context(), "tmp", docker("a"))
		return err
	}
	doUnmount := func(m *volume.Manager) error { return m.Unmount(t.Context(), "tmp", "a") }
	for name, do := range map[string]func(*volume.Manager) error{"mount": doMount, "unmount": doUnmount} {
		for _, how := range []string{"kill", "power", "fail"} {
			for k := 1; ; k++ {
				n := volumetest.NewNode(t)
				create(t, n, "tmp", "ephemeral=true", "size=64M")
				if name == "unmount" {
					n.Put(mount(t, n, "tmp", docker("a")), "canary", canary)
				}
				p := n.Process()
				if how == "fail" {
					p.FailAt(k, errors.New("broken"))
				} else {
					p.KillAt(k)
				}
				err := do(n.ManagerOf(p))
				if p.Steps() < k {
					if k < 5 || err != nil {
						t.Errorf("%s: %d writes, %v", name, k-1, err)
					}
					break
				}
				if how == "power" {
					n.Reboot()
				}
				if k%2 == 0 {
					if err := n.Manager().Reconcile(t.Context()); err != nil {
						t.Errorf("reconcile: %v", err)
					}
				}
				path := mount(t, n, "tmp", docker("b"))
				if got := n.Get(path, "canary"); name == "mount" && got != "" {
					t.Errorf("it was not empty: %q", got)
				}
				for _, id := range []string{"a", "b"} {
					if err := n.Manager().Unmount(t.Context(), "tmp", id); err != nil {
						t.Error(err)
					}
				}
				gone(t, n)
				if t.Failed() {
					t.Fatalf("%s, %s at write %d:\n%s", name, how, k, strings.Join(n.Log(), "\n"))
				}
			}
		}
	}
}
