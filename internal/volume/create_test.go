// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
)

func spec(t testing.TB, n *volumetest.Node, name string, opts ...string) volume.Spec {
	t.Helper()
	o := map[string]string{}
	for _, s := range opts {
		k, v, _ := strings.Cut(s, "=")
		o[k] = v
	}
	s, err := volume.ParseOptions(name, o, n.Defaults)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func create(t testing.TB, n *volumetest.Node, name string, opts ...string) volume.Info {
	t.Helper()
	info, made, err := n.Manager().Create(t.Context(), spec(t, n, name, opts...))
	if err != nil || !made {
		t.Fatalf("create: made %t, %v", made, err)
	}
	return info
}

func docker(id string) volume.Holder { return volume.Holder{ID: id, Kind: volume.HolderDocker} }

func mount(t testing.TB, n *volumetest.Node, name string, h volume.Holder) string {
	t.Helper()
	path, err := n.Manager().Mount(t.Context(), name, h)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func image(n *volumetest.Node, name string) string {
	return filepath.Join(n.Paths.VolumeDir(name), "image")
}

func clean(t testing.TB, n *volumetest.Node) {
	t.Helper()
	if left := n.Tables(); len(left) > 0 {
		t.Errorf("the kernel still has %v", left)
	}
}

func TestCreate(t *testing.T) {
	n := volumetest.NewNode(t)
	info := create(t, n, "db", "size=64M", "uid=999")
	if info.State != volume.StateReady || info.Name != "db" || info.Size != 64<<20 || info.FS != "ext4" || info.UUID == "" || !info.Finished() {
		t.Errorf("got %+v", info)
	}
	if len(info.Slots) != 2 || info.KeySince == nil {
		t.Errorf("slots %+v, since %v", info.Slots, info.KeySince)
	}
	if info.Options["uid"] != "999" || info.Options["alloc"] != "full" {
		t.Errorf("options %v", info.Options)
	}
	clean(t, n)
	if _, _, complete, ok := n.Container(image(n, "db")); !ok || !complete {
		t.Error("the container has no volume token")
	}
}

// F10: idempotent for equal options, however they are spelt; an error that names the difference for others; never a change.
func TestCreateAgain(t *testing.T) {
	n := volumetest.NewNode(t)
	first := create(t, n, "db", "size=1G", "mode=0700")
	info, made, err := n.Manager().Create(t.Context(), spec(t, n, "db", "size=1024M", "mode=700"))
	if err != nil || made || info.UUID != first.UUID {
		t.Fatalf("made %t, %v", made, err)
	}
	_, epoch, _, _ := n.Container(image(n, "db"))
	for _, opts := range [][]string{{"size=2G", "mode=0700"}, {"size=1G", "mode=0700", "fs=xfs"}, {"size=1G"}, {"size=1G", "mode=0700", "uid=5"}} {
		_, _, err := n.Manager().Create(t.Context(), spec(t, n, "db", opts...))
		var d *volume.DiffError
		if !errors.Is(err, volume.ErrExists) || !errors.As(err, &d) || len(d.Differences) != 1 || !strings.Contains(err.Error(), d.Differences[0].Option) {
			t.Errorf("%v: %v", opts, err)
		}
	}
	if _, now, _, _ := n.Container(image(n, "db")); now != epoch {
		t.Error("the header was written")
	}
}

// What was left to the node's defaults stays equal when they change.
func TestCreateAgainUnderOtherDefaults(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	n.Defaults.Size, n.Defaults.FS = 1<<30, "xfs"
	if _, made, err := n.Manager().Create(t.Context(), spec(t, n, "db")); err != nil || made {
		t.Errorf("made %t, %v", made, err)
	}
	if _, _, err := n.Manager().Create(t.Context(), spec(t, n, "db", "fs=xfs")); !errors.Is(err, volume.ErrExists) {
		t.Errorf("got %v", err)
	}
}

func TestCreateWithoutKeys(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*volumetest.Node)
		want  error
	}{
		"no recovery recipient": {func(n *volumetest.Node) { n.Keyring.Recipients = nil }, volume.ErrNoRecovery},
		"provider down":         {func(n *volumetest.Node) { n.Provider.Fail(kek.ErrUnavailable) }, volume.ErrLocked},
		"provider refuses":      {func(n *volumetest.Node) { n.Provider.Fail(kek.ErrDenied) }, volume.ErrLocked},
	} {
		t.Run(name, func(t *testing.T) {
			n := volumetest.NewNode(t)
			c.spoil(n)
			if _, _, err := n.Manager().Create(t.Context(), spec(t, n, "db")); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			nothingLeft(t, n, "db")
		})
	}
}

// nothingLeft checks that a creation that failed left no trace: no name, no space, no kernel objects.
func nothingLeft(t *testing.T, n *volumetest.Node, name string) {
	t.Helper()
	clean(t, n)
	if _, err := n.Manager().Inspect(t.Context(), name); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("inspect: %v", err)
	}
	for _, dir := range []string{n.Paths.VolumesDir(), n.Paths.RemovedDir(), n.Paths.MountsDir()} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			t.Errorf("left in %s: %s", dir, e.Name())
		}
	}
}

var errInjected = errors.New("injected failure")

// F9, F13: whatever write of a creation fails, everything is undone, and the next creation works. The error is the injected one, not one of the undo.
func TestCreateFailsAtEachWrite(t *testing.T) {
	for k := 1; ; k++ {
		n := volumetest.NewNode(t)
		p := n.Process()
		p.FailAt(k, errInjected)
		_, _, err := n.ManagerOf(p).Create(t.Context(), spec(t, n, "db"))
		if p.Steps() < k {
			if k < 15 {
				t.Fatalf("only %d writes", k-1)
			}
			return
		}
		if err == nil {
			// Of what follows the record "ready", tidying up, a failure is no reason to fail.
			if info, err := n.Manager().Inspect(t.Context(), "db"); err != nil || !info.Finished() {
				t.Errorf("write %d of %v: success, but %+v, %v", k, n.Log(), info, err)
			}
		} else {
			if !errors.Is(err, errInjected) {
				t.Errorf("write %d: %v", k, err)
			}
			nothingLeft(t, n, "db")
		}
		if err := n.Manager().Reconcile(t.Context()); err != nil {
			t.Errorf("write %d: reconcile: %v", k, err)
		}
		clean(t, n)
		if _, _, err := n.Manager().Create(t.Context(), spec(t, n, "db")); err != nil {
			t.Errorf("write %d: again: %v\n%v", k, err, strings.Join(n.Log(), "\n"))
		}
		mount(t, n, "db", docker("a"))
		if t.Failed() {
			t.Fatalf("write %d:\n%s", k, strings.Join(n.Log(), "\n"))
		}
	}
}

// F13: the caller's cancellation at any moment cancels the creation and never its undo.
func TestCreateCanceledAtEachPoint(t *testing.T) {
	for k := 0; ; k++ {
		n := volumetest.NewNode(t)
		ctx, cancel := context.WithCancel(t.Context())
		points := 0
		m := n.ManagerAt(func(point string) {
			if points++; points == k {
				cancel()
			}
		})
		_, _, err := m.Create(ctx, spec(t, n, "db"))
		cancel()
		if points < k {
			return
		}
		if err != nil {
			if !errors.Is(err, volume.ErrCanceled) {
				t.Errorf("point %d: %v", k, err)
			}
			nothingLeft(t, n, "db")
		}
		clean(t, n)
	}
}

// F1, F2, F3: an image that is not what this creation left is never formatted; the error is about the volume, and nothing is lost.
func TestCreateDoesNotFormatWhatItDidNotMake(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(n *volumetest.Node, image string)
	}{
		"something else in it": {func(n *volumetest.Node, image string) { n.Junk(image) }},
	} {
		t.Run(name, func(t *testing.T) {
			n := volumetest.NewNode(t)
			crash(t, n, "create.allocated")
			old := image(n, "db")
			c.spoil(n, old)
			info, made, err := n.Manager().Create(t.Context(), spec(t, n, "db"))
			if err != nil || !made {
				t.Fatal(err)
			}
			// The old image is a tombstone, untouched.
			tombs, _ := filepath.Glob(filepath.Join(n.Paths.RemovedDir(), "*", "image"))
			if len(tombs) != 1 || strings.Contains(tombs[0], info.UUID) {
				t.Errorf("tombstones %v", tombs)
			}
		})
	}
}

// crash kills a creation of "db" at a named point.
func crash(t *testing.T, n *volumetest.Node, at string) {
	t.Helper()
	p := n.Process()
	hit := false
	m := n.ManagerOfAt(p, func(point string) {
		if point == at {
			hit = true
			p.Kill()
		}
	})
	m.Create(t.Context(), spec(t, n, "db"))
	if !hit {
		t.Fatalf("no point %s", at)
	}
}

// F1: the record says that this volume was complete. If its device then reads as blank, that is an error for ever, and never a reason to format.
func TestMountNeverFormats(t *testing.T) {
	for name, spoil := range map[string]func(n *volumetest.Node, image string){
		"blank":   func(n *volumetest.Node, image string) { n.Blank(image) },
		"junk":    func(n *volumetest.Node, image string) { n.Junk(image) },
		"damaged": func(n *volumetest.Node, image string) { n.Damage(image) },
		"gone":    func(n *volumetest.Node, image string) { os.Remove(image) },
	} {
		t.Run(name, func(t *testing.T) {
			n := volumetest.NewNode(t)
			create(t, n, "db")
			spoil(n, image(n, "db"))
			before := len(n.Log())
			if _, err := n.Manager().Mount(t.Context(), "db", docker("a")); !errors.Is(err, volume.ErrDamaged) {
				t.Errorf("mount: %v", err)
			}
			if _, made, err := n.Manager().Create(t.Context(), spec(t, n, "db")); made {
				t.Errorf("create: made %t, %v", made, err)
			}
			for _, line := range n.Log()[before:] {
				if strings.Contains(line, "format") || strings.Contains(line, "mkfs") {
					t.Errorf("log: %s", line)
				}
			}
			clean(t, n)
		})
	}
}

// Two creations of one name at the same time: one makes it, the other finds it.
func TestCreateConcurrently(t *testing.T) {
	n := volumetest.NewNode(t)
	const callers = 8
	results := make(chan bool, callers)
	for range callers {
		go func() {
			_, made, err := n.Manager().Create(t.Context(), spec(t, n, "db"))
			if err != nil {
				t.Error(err)
			}
			results <- made
		}()
	}
	made := 0
	for range callers {
		if <-results {
			made++
		}
	}
	if made != 1 {
		t.Errorf("made %d times", made)
	}
	clean(t, n)
}

func TestCreateTimeout(t *testing.T) {
	n := volumetest.NewNode(t)
	n.Provider.Hang(true)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := n.Manager().Create(ctx, spec(t, n, "db")); err == nil {
		t.Error("success")
	}
	nothingLeft(t, n, "db")
}
