// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
)

// F17: the file system lives on in another mount namespace. The holder goes, the mapping stays, it is said who has it, and it is closed later; a mount
// in between uses it.
func TestUnmountWhileAnotherNamespaceHasIt(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	path := mount(t, n, "db", docker("a"))
	n.Put(path, "canary", canary)
	n.Enter(n.Paths.Mount("db"), 77)

	err := n.Manager().Unmount(t.Context(), "db", "a")
	var held *volume.HeldError
	if !errors.Is(err, volume.ErrBusy) || !errors.As(err, &held) || !held.Closing || !strings.Contains(err.Error(), "process 77") {
		t.Errorf("got %v", err)
	}
	info := inspect(t, n, "db")
	if info.State != volume.StateClosing || len(info.Holders) != 0 || info.Mountpoint != "" || !strings.Contains(info.Reason, "process 77") {
		t.Errorf("got %+v", info)
	}
	if err := n.Manager().Remove(t.Context(), "db"); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("remove: %v", err)
	}
	if err := n.Manager().Settle(t.Context(), "db"); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("settle: %v", err)
	}
	// A new user gets the same file system, not a second one.
	if path := mount(t, n, "db", docker("b")); n.Get(path, "canary") != canary {
		t.Error("another file system")
	}
	n.Manager().Unmount(t.Context(), "db", "b")
	n.Leave(77)
	if err := n.Manager().Reconcile(t.Context()); err != nil {
		t.Error(err)
	}
	clean(t, n)
}

// A process of the host has a file open: the mount itself is busy.
func TestUnmountWhileFilesAreOpen(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	mount(t, n, "db", docker("a"))
	n.KeepOpen(n.Paths.Mount("db"), true)
	err := n.Manager().Unmount(t.Context(), "db", "a")
	if !errors.Is(err, volume.ErrBusy) || !strings.Contains(err.Error(), "files open") {
		t.Errorf("got %v", err)
	}
	if info := inspect(t, n, "db"); info.State != volume.StateClosing || len(info.Holders) != 0 {
		t.Errorf("got %+v", info)
	}
	n.KeepOpen(n.Paths.Mount("db"), false)
	if err := n.Manager().Settle(t.Context(), "db"); err != nil {
		t.Error(err)
	}
	clean(t, n)
}

// dockerd is a Docker holder with the process that asked.
func dockerd(id string, pid int, start uint64) volume.Holder {
	return volume.Holder{ID: id, Kind: volume.HolderDocker, PID: pid, Start: start, Comm: "dockerd"}
}

// F21, F22, F51: dockerd was killed and so was a container; Docker never sends its Unmount. Two sweeps later the holder is gone.
func TestSweep(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	n.Start(100, 5)
	mount(t, n, "db", dockerd("a", 100, 5))
	n.Enter(n.Paths.Mount("db"), 77)
	reconcile := func() {
		t.Helper()
		if err := n.Manager().Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	held := func(want int) {
		t.Helper()
		if got := len(inspect(t, n, "db").Holders); got != want {
			t.Errorf("%d holders, want %d", got, want)
		}
	}
	alive := func(why string) {
		t.Helper()
		for range 3 {
			reconcile()
			n.Sleep(time.Hour)
		}
		if got := len(inspect(t, n, "db").Holders); got != 1 {
			t.Fatalf("%s: %d holders", why, got)
		}
	}
	alive("dockerd runs")
	n.Start(100, 0)
	alive("dockerd is gone, and the container runs")
	n.Leave(77)
	n.Blind(true)
	alive("nobody knows")
	n.Blind(false)

	// One sweep is not enough, however long ago, if dockerd was seen or somebody had the volume in between.
	reconcile()
	n.Enter(n.Paths.Mount("db"), 78)
	n.Sleep(time.Hour)
	reconcile()
	n.Leave(78)
	reconcile()
	held(1)
	// Nor are two at once.
	reconcile()
	held(1)
	n.Sleep(2 * time.Minute)
	// A service's copy of our own mount does not make it alive.
	n.Copy(n.Paths.Mount("db"), 79)
	if err := n.Manager().Reconcile(t.Context()); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("got %v", err)
	}
	held(0)
	n.Leave(79)
	reconcile()
	clean(t, n)
}

// The dockerd that is back mounts the containers that still run with the same ids: they are alive again.
func TestSweepAfterRemount(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	mount(t, n, "db", dockerd("a", 100, 5)) // dead
	n.Manager().Reconcile(t.Context())
	n.Start(200, 9)
	mount(t, n, "db", dockerd("a", 200, 9))
	n.Sleep(time.Hour)
	for range 3 {
		n.Manager().Reconcile(t.Context())
		n.Sleep(time.Hour)
	}
	if got := len(inspect(t, n, "db").Holders); got != 1 {
		t.Errorf("%d holders", got)
	}
}

// A pid that belongs to another process by now is not that dockerd.
func TestSweepReusedPID(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	n.Start(100, 6)
	mount(t, n, "db", dockerd("a", 100, 5))
	n.Manager().Reconcile(t.Context())
	n.Sleep(time.Hour)
	n.Manager().Reconcile(t.Context())
	if got := len(inspect(t, n, "db").Holders); got != 0 {
		t.Errorf("%d holders", got)
	}
	clean(t, n)
}

// Podman and the CLI end right after the call; a Docker holder of which nothing is known could be anybody's.
func TestSweepLeavesOthers(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	for _, h := range []volume.Holder{
		{ID: "p", Kind: volume.HolderPodman, PID: 9, Start: 9}, {ID: "c", Kind: volume.HolderCLI, PID: 9, Start: 9},
		{ID: "s", Kind: volume.HolderSystemd, PID: 9, Start: 9}, {ID: "d", Kind: volume.HolderDocker},
	} {
		mount(t, n, "db", h)
	}
	for range 3 {
		if err := n.Manager().Settle(t.Context(), "db"); err != nil {
			t.Error(err)
		}
		n.Sleep(time.Hour)
	}
	if got := len(inspect(t, n, "db").Holders); got != 4 {
		t.Errorf("%d holders", got)
	}
}

// F21: holders of an earlier boot hold nothing, even if the runtime directory has survived.
func TestHoldersOfAnotherBoot(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	mount(t, n, "db", docker("a"))
	n.Machine.Reboot()
	if info := inspect(t, n, "db"); info.State != volume.StateReady || len(info.Holders) != 0 {
		t.Errorf("got %+v", info)
	}
	mount(t, n, "db", docker("b"))
	if err := n.Manager().Unmount(t.Context(), "db", "b"); err != nil {
		t.Error(err)
	}
	clean(t, n)
}

// A holder's file that cannot be read counts as somebody.
func TestUnreadableHolder(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	mount(t, n, "db", docker("a"))
	files, _ := filepath.Glob(filepath.Join(n.Paths.Holders("db"), "*"))
	for _, content := range []string{"", "{", `{"id":"another"}`} {
		if err := os.WriteFile(files[0], []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := n.Manager().Settle(t.Context(), "db"); err != nil {
			t.Error(err)
		}
		if info := inspect(t, n, "db"); info.State != volume.StateMounted || len(info.Holders) != 1 {
			t.Errorf("%q: %+v", content, info)
		}
	}
}

// F25: a volume that anybody uses is not removed, and what is mounted there is not touched.
func TestRemoveInUse(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	path := mount(t, n, "db", docker("a"))
	n.Put(path, "canary", canary)
	err := n.Manager().Remove(t.Context(), "db")
	if !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), `docker "a"`) {
		t.Errorf("got %v", err)
	}
	if n.Get(path, "canary") != canary || inspect(t, n, "db").State != volume.StateMounted {
		t.Error("it was touched")
	}
	n.Manager().Unmount(t.Context(), "db", "a")
	// Somebody else's mount on or below its mountpoint.
	n.MountOther(n.Paths.Mount("db"), "/", "tmpfs", "tmpfs", 0, 55)
	if err := n.Manager().Remove(t.Context(), "db"); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "tmpfs") {
		t.Errorf("got %v", err)
	}
	n.UnmountAll()
	if err := n.Manager().Remove(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	tombstoned(t, n)
}

// The name of a removed volume is free at once, and what is removed twice leaves two tombstones.
func TestRemove(t *testing.T) {
	n := volumetest.NewNode(t)
	first := create(t, n, "db")
	mount(t, n, "db", docker("a"))
	n.Manager().Unmount(t.Context(), "db", "a")
	if err := n.Manager().Remove(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	if err := n.Manager().Remove(t.Context(), "db"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("got %v", err)
	}
	second := create(t, n, "db")
	if first.UUID == second.UUID {
		t.Error("the same UUID")
	}
	if err := n.Manager().Remove(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	for _, uuid := range []string{first.UUID, second.UUID} {
		if _, err := os.Stat(filepath.Join(n.Paths.RemovedDir(), uuid, "image")); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(n.Paths.Mount("db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("mountpoint: %v", err)
	}
}

// The lock file of a volume is never unlinked: whoever waits for it must wait for the same one.
func TestLockFileStays(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	before, err := os.Stat(n.Paths.Lock("db"))
	if err != nil {
		t.Fatal(err)
	}
	n.Manager().Remove(t.Context(), "db")
	if after, err := os.Stat(n.Paths.Lock("db")); err != nil || !os.SameFile(before, after) {
		t.Errorf("lock file: %v", err)
	}
}

func TestRemoveUnfinished(t *testing.T) {
	for _, point := range []string{"create.prepared", "create.slots", "create.mkfs"} {
		n := volumetest.NewNode(t)
		crash(t, n, point)
		if info := inspect(t, n, "db"); info.Finished() {
			t.Errorf("%s: %+v", point, info)
		}
		if err := n.Manager().Remove(t.Context(), "db"); err != nil {
			t.Errorf("%s: %v", point, err)
		}
		clean(t, n)
		create(t, n, "db")
	}
}
