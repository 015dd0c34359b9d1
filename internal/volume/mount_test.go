// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
)

func inspect(t testing.TB, n *volumetest.Node, name string) volume.Info {
	t.Helper()
	info, err := n.Manager().Inspect(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestMount(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	path := mount(t, n, "db", docker("a"))
	if filepath.Base(path) != "data" || filepath.Base(filepath.Dir(path)) != "db" {
		t.Errorf("path %s", path)
	}
	info := inspect(t, n, "db")
	if info.State != volume.StateMounted || info.Mountpoint != path || len(info.Holders) != 1 || info.Holders[0].ID != "a" || info.Used == nil {
		t.Errorf("got %+v", info)
	}
	if again, err := n.Manager().Path(t.Context(), "db"); err != nil || again != path {
		t.Errorf("path %q, %v", again, err)
	}
	if err := n.Manager().Unmount(t.Context(), "db", "a"); err != nil {
		t.Fatal(err)
	}
	clean(t, n)
	if info := inspect(t, n, "db"); info.State != volume.StateReady || info.Mountpoint != "" || len(info.Holders) != 0 {
		t.Errorf("got %+v", info)
	}
	if _, err := n.Manager().Path(t.Context(), "db"); !errors.Is(err, volume.ErrNotMounted) {
		t.Errorf("path: %v", err)
	}
}

// F22: a set of ids. The same id twice is one holder, an unknown one is harmless, any characters are fine, and the volume closes with the last.
func TestHolders(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	ids := []string{"a", "../../etc/passwd", "b/c\x00\n", strings.Repeat("é", 2000), "A"}
	for range 2 {
		for _, id := range ids {
			mount(t, n, "db", docker(id))
		}
	}
	if info := inspect(t, n, "db"); len(info.Holders) != len(ids) {
		t.Errorf("holders %v", info.Holders)
	}
	if err := n.Manager().Unmount(t.Context(), "db", "never seen"); err != nil {
		t.Error(err)
	}
	for i, id := range ids {
		if state := inspect(t, n, "db").State; state != volume.StateMounted {
			t.Errorf("with %d holders gone: %s", i, state)
		}
		for range 2 {
			if err := n.Manager().Unmount(t.Context(), "db", id); err != nil {
				t.Error(err)
			}
		}
	}
	clean(t, n)
	if _, err := os.Stat(n.Paths.Config); err == nil {
		t.Error("something was written outside the directories of holders")
	}
	if err := n.Manager().Unmount(t.Context(), "db", "a"); err != nil {
		t.Error(err)
	}
}

func TestMountRefusesHolders(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	for _, h := range []volume.Holder{{Kind: volume.HolderCLI}, docker(strings.Repeat("x", 4097)), {ID: "a", Kind: "kubelet"}} {
		if _, err := n.Manager().Mount(t.Context(), "db", h); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%q: %v", h.ID, err)
		}
	}
	clean(t, n)
}

// F14, F16: any number of mounts at the same time make one mapping.
func TestMountConcurrently(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	const callers = 20
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			if _, err := n.Manager().Mount(t.Context(), "db", docker(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if tables := n.Tables(); len(tables) != 3 {
		t.Errorf("the kernel has %v", tables)
	}
	if got := len(inspect(t, n, "db").Holders); got != callers {
		t.Errorf("%d holders", got)
	}
	for i := range callers {
		wg.Go(func() {
			if err := n.Manager().Unmount(t.Context(), "db", fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	clean(t, n)
}

// F13: whatever write of a mount fails, the kernel's tables are as before, and the next mount works.
func TestMountFailsAtEachWrite(t *testing.T) {
	for k := 1; ; k++ {
		n := volumetest.NewNode(t)
		create(t, n, "db")
		p := n.Process()
		p.FailAt(k, errInjected)
		_, err := n.ManagerOf(p).Mount(t.Context(), "db", docker("a"))
		if p.Steps() < k {
			if k < 5 {
				t.Fatalf("only %d writes", k-1)
			}
			return
		}
		if !errors.Is(err, errInjected) {
			t.Errorf("write %d: %v\n%s", k, err, strings.Join(n.Log(), "\n"))
		}
		clean(t, n)
		if held := inspect(t, n, "db").Holders; len(held) > 0 {
			t.Errorf("write %d: holders %v", k, held)
		}
		mount(t, n, "db", docker("a"))
	}
}

// F13: the caller's cancellation at each point.
func TestMountCanceledAtEachPoint(t *testing.T) {
	for k := 1; ; k++ {
		n := volumetest.NewNode(t)
		create(t, n, "db")
		ctx, cancel := context.WithCancel(t.Context())
		points := 0
		_, err := n.ManagerAt(func(string) {
			if points++; points == k {
				cancel()
			}
		}).Mount(ctx, "db", docker("a"))
		cancel()
		if points < k {
			return
		}
		if err != nil {
			if !errors.Is(err, volume.ErrCanceled) {
				t.Errorf("point %d: %v", k, err)
			}
			clean(t, n)
		} else if inspect(t, n, "db").State != volume.StateMounted {
			t.Errorf("point %d: success, but not mounted", k)
		}
	}
}

// F7, F28, F40: no key is an error, shown with its reason, and never a reason to do anything but wait. It goes away by itself.
func TestMountWithoutKey(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	n.Provider.Fail(kek.ErrUnavailable)
	_, epoch, _, _ := n.Container(image(n, "db"))
	if _, err := n.Manager().Mount(t.Context(), "db", docker("a")); !errors.Is(err, volume.ErrLocked) {
		t.Errorf("got %v", err)
	}
	clean(t, n)
	info := inspect(t, n, "db")
	if info.State != volume.StateLocked || !strings.Contains(info.Reason, kek.ErrUnavailable.Error()) || !info.Finished() {
		t.Errorf("got %+v", info)
	}
	if info.NextTry != nil {
		t.Error("it says that somebody tries again, and nobody does")
	}
	next := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	if err := n.Manager().NoteKey("db", fmt.Errorf("again: %w", &volume.Error{Code: volume.CodeLocked, Err: kek.ErrUnavailable}), next); err != nil {
		t.Fatal(err)
	}
	if err := n.Manager().NoteKey("db", &volume.Error{Code: volume.CodeBusy, Err: errors.New("nothing about the key")}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if info := inspect(t, n, "db"); info.State != volume.StateLocked || !strings.HasPrefix(info.Reason, "again: ") || info.NextTry == nil || !info.NextTry.Equal(next) {
		t.Errorf("got %+v", info)
	}
	n.Provider.Fail(nil)
	mount(t, n, "db", docker("a"))
	if info := inspect(t, n, "db"); info.State != volume.StateMounted || info.Reason != "" || info.NextTry != nil {
		t.Errorf("got %+v", info)
	}
	if _, now, _, _ := n.Container(image(n, "db")); now != epoch {
		t.Error("the header was written")
	}
}

// F8 and bad input: an image that was cut is an error, not a shorter file system.
func TestMountCutImage(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	n.Cut(image(n, "db"))
	if _, err := n.Manager().Mount(t.Context(), "db", docker("a")); !errors.Is(err, volume.ErrDamaged) || !strings.Contains(err.Error(), "cut") {
		t.Errorf("got %v", err)
	}
	clean(t, n)
}

// F16: an image that another program has open, by whatever way, is not opened a second time.
func TestMountImageInOtherHands(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	n.Pin(image(n, "db"))
	if _, err := n.Manager().Mount(t.Context(), "db", docker("a")); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("got %v", err)
	}
	if err := n.Manager().Remove(t.Context(), "db"); !errors.Is(err, volume.ErrInUse) && !errors.Is(err, volume.ErrBusy) {
		t.Errorf("remove: %v", err)
	}
}

// F14: a mapping under another name is seen by its UUID.
func TestMountOpenUnderAnotherName(t *testing.T) {
	n := volumetest.NewNode(t)
	info := create(t, n, "db")
	mount(t, n, "db", docker("a"))
	if err := os.RemoveAll(n.Paths.Run); err != nil {
		t.Fatal(err)
	}
	n.UnmountAll()
	n.Tamper(info.UUID, func(name, uuid, params *string) { *name = "byhand" })
	if _, err := n.Manager().Mount(t.Context(), "db", docker("b")); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "cryptsetup close byhand") {
		t.Errorf("got %v", err)
	}
}

func TestMountSuspended(t *testing.T) {
	n := volumetest.NewNode(t)
	info := create(t, n, "db")
	create(t, n, "other")
	mount(t, n, "db", docker("a"))
	n.Suspend(info.UUID, true)
	if got := inspect(t, n, "db"); got.State != volume.StateStuck || got.Used != nil {
		t.Errorf("got %+v", got)
	}
	mount(t, n, "other", docker("a"))
	n.Suspend(info.UUID, false)
	if got := inspect(t, n, "db"); got.State != volume.StateMounted {
		t.Errorf("got %+v", got)
	}
}

// The lock of a volume whose operation is past its deadline makes it stuck for everybody, at once; other volumes are not concerned.
func TestStuck(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	create(t, n, "other")
	held := make(chan struct{})
	release := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n.ManagerAt(func(point string) {
			if point == "mount.opened" {
				close(held)
				<-release
			}
		}).Mount(ctx, "db", docker("a"))
	})
	<-held
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := n.Manager().Mount(ctx, "db", docker("b")); !errors.Is(err, volume.ErrBusy) || !strings.Contains(err.Error(), "mount (process") {
		t.Errorf("before the deadline: %v", err)
	}
	if s := inspect(t, n, "db").State; s == volume.StateStuck {
		t.Error("stuck before the deadline")
	}
	n.Sleep(time.Minute)
	for name, op := range map[string]func(*volume.Manager) error{
		"mount":   func(m *volume.Manager) error { _, err := m.Mount(t.Context(), "db", docker("b")); return err },
		"unmount": func(m *volume.Manager) error { return m.Unmount(t.Context(), "db", "a") },
		"remove":  func(m *volume.Manager) error { return m.Remove(t.Context(), "db") },
		"settle":  func(m *volume.Manager) error { return m.Settle(t.Context(), "db") },
	} {
		if err := op(n.Manager()); !errors.Is(err, volume.ErrStuck) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if info := inspect(t, n, "db"); info.State != volume.StateStuck || !strings.Contains(info.Reason, "mount (process") {
		t.Errorf("got %+v", info)
	}
	mount(t, n, "other", docker("a"))
	close(release)
	wg.Wait()
	if info := inspect(t, n, "db"); info.State == volume.StateStuck {
		t.Errorf("still %+v", info)
	}
}

// What cannot be made safe is said, always and not only when it happens.
func TestWarnings(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db", "alloc=sparse")
	if w := inspect(t, n, "db").Warnings; len(w) > 0 {
		t.Errorf("warnings %v", w)
	}
	n.Weak(true)
	mount(t, n, "db", docker("a"))
	n.Fill(1 << 20)
	if w := inspect(t, n, "db").Warnings; len(w) != 2 || !strings.Contains(w[0], "plaintext") || !strings.Contains(w[1], "1 MiB left") {
		t.Errorf("warnings %v", w)
	}
	n.Break(inspect(t, n, "db").UUID)
	if w := inspect(t, n, "db").Warnings; len(w) != 3 || !strings.Contains(w[2], "fsck") {
		t.Errorf("warnings %v", w)
	}
	n.Manager().Unmount(t.Context(), "db", "a")
	n.Weak(false)
	n.Fill(1 << 40)
	mount(t, n, "db", docker("a"))
	if w := inspect(t, n, "db").Warnings; len(w) > 0 {
		t.Errorf("warnings %v", w)
	}
}
