// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/luks"
)

// F1, F2: the device below a complete volume fails all reads, or answers them all with zeros. Nothing is formatted, by Mount or by Create; nothing stays
// open; and when the device is back, so is the data.
func TestGuestDeviceFails(t *testing.T) {
	disk := testenv.Disk(t, 0, 100<<20)
	r := newReal(t)
	size, err := sys.BlockDeviceSize(disk)
	if err != nil {
		t.Fatal(err)
	}
	const lower = "voluks-test-lower"
	good := fmt.Sprintf("0 %d linear %s 0", size/512, disk)
	testenv.DM(t, lower, good)
	dev := "/dev/mapper/" + lower
	if err := filesystem.Make(t.Context(), dev, filesystem.Spec{Type: filesystem.Ext4, UUID: "01234567-89ab-4def-8123-456789abcdef", Overwrite: true}); err != nil {
		t.Fatal(err)
	}
	dir := r.paths.VolumeDir("db")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	attach := func() {
		t.Helper()
		if err := syscall.Mount(dev, dir, "ext4", 0, ""); err != nil {
			t.Fatal(err)
		}
	}
	detach := func() {
		t.Helper()
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
	}
	attach()
	defer func() { detach() }()
	if err := os.Remove(filepath.Join(dir, "lost+found")); err != nil {
		t.Fatal(err)
	}
	r.create("db")
	r.put(r.mount("db", "a"), canary)
	r.unmount("db", "a")
	for _, target := range []string{"zero", "error"} {
		detach()
		attach()        // nothing of it is in a cache
		r.inspect("db") // the record, too
		// Where the image's blocks are is known, as on a disk that is in use; what is in them is read anew.
		if _, err := luks.At(r.image("db")).Header(); err != nil {
			t.Fatal(err)
		}
		testenv.DMReload(t, lower, fmt.Sprintf("0 %d %s", size/512, target))
		for range 3 {
			_, err := r.manager().Mount(t.Context(), "db", docker("b"))
			if err == nil {
				t.Fatalf("%s: mounted", target)
			}
			t.Logf("%s: %v", target, err)
			if !errors.Is(err, volume.ErrDamaged) {
				t.Errorf("%s: %v", target, err)
			}
			if _, made, err := r.manager().Create(t.Context(), r.spec("db")); made {
				t.Errorf("%s: made %t, %v", target, made, err)
			}
		}
		// The file system below may have given up by now.
		if got := r.tables(); len(got) != 2 { // the lower device, and its mount
			t.Errorf("%s: the kernel has %v", target, got)
		}
		detach()
		testenv.DMReload(t, lower, good)
		attach()
		r.get(r.mount("db", "b"), canary)
		r.unmount("db", "b")
	}

	// The same while it is mounted: the status says that something is wrong, and it can be closed.
	path := r.mount("db", "a")
	testenv.DMReload(t, lower, fmt.Sprintf("0 %d error", size/512))
	for i := range 3 { // the first makes the journal stop, the next one notices
		f, err := os.Create(filepath.Join(path, fmt.Sprint("lost", i)))
		if err != nil {
			t.Log(err)
			continue
		}
		f.Write(make([]byte, 1<<20))
		if f.Sync() == nil {
			t.Error("a write to a broken device was synced")
		}
		f.Close()
	}
	info := r.inspect("db")
	t.Logf("mounted on a broken device: %s %v", info.State, info.Warnings)
	if info.State != volume.StateMounted || !strings.Contains(fmt.Sprint(info.Warnings), "errors") {
		t.Errorf("got %+v", info)
	}
	if err := r.manager().Unmount(t.Context(), "db", "a"); err != nil {
		t.Logf("unmount: %v", err)
	}
	detach()
	testenv.DMReload(t, lower, good)
	attach()
	if err := r.manager().Settle(t.Context(), "db"); err != nil {
		t.Errorf("settle: %v", err)
	}
	r.get(r.mount("db", "a"), canary)
	r.unmount("db", "a")
}

// The disk is filled to the last block while a volume is made, at each point. Nothing is left behind, or the volume is complete, and with room again the
// next creation works.
func TestGuestDiskFull(t *testing.T) {
	testenv.Guest(t)
	disk := testenv.Ext4Dir(t, 0)
	r := newReal(t)
	r.paths.State = filepath.Join(disk, "state")
	filler := filepath.Join(disk, "filler")
	fill := func(leave int64) {
		t.Helper()
		f, err := os.OpenFile(filler, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		st, err := sys.Statfs(disk)
		if err != nil {
			t.Fatal(err)
		}
		// Root gets the reserved blocks too.
		for left := st.Free - leave; left > 0; left = left / 2 {
			info, _ := f.Stat()
			if err := syscall.Fallocate(int(f.Fd()), 0, info.Size(), left); err == nil && left < 4096 {
				break
			}
		}
	}
	drain := func() {
		t.Helper()
		if err := os.Remove(filler); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	fill(20 << 20)
	if _, _, err := r.manager().Create(t.Context(), r.spec("full")); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("got %v", err)
	}
	if entries, _ := os.ReadDir(r.paths.VolumesDir()); len(entries) > 0 {
		t.Errorf("left %v", entries)
	}
	drain()
	for i, at := range []string{"create.prepared", "create.attached", "create.slots", "create.opened", "create.mkfs", "create.token", "create.ready"} {
		name := fmt.Sprint("v", i)
		reached := false
		_, made, err := r.managerAt(func(point string) {
			if point == at {
				reached = true
				fill(0)
			}
		}).Create(t.Context(), r.spec(name, "alloc=sparse"))
		t.Logf("full at %s: %v", at, err)
		if !reached {
			t.Errorf("no point %s", at)
		}
		r.clean()
		if err == nil {
			if info := r.inspect(name); !made || !info.Finished() {
				t.Errorf("%s: %+v", at, info)
			}
		} else if entries, _ := os.ReadDir(r.paths.VolumesDir()); len(entries) > 0 {
			t.Errorf("%s: left %v", at, entries)
		}
		drain()
		if err := r.manager().Reconcile(t.Context()); err != nil {
			t.Errorf("%s: reconcile: %v", at, err)
		}
		if _, _, err := r.manager().Create(t.Context(), r.spec(name, "alloc=sparse")); err != nil {
			t.Errorf("%s: again: %v", at, err)
		}
		r.put(r.mount(name, "a"), canary)
		r.unmount(name, "a")
		if err := r.manager().Remove(t.Context(), name); err != nil {
			t.Error(err)
		}
		r.purge()
	}
	// An immutable mountpoint would keep the disk's files.
	bare, _ := filepath.Glob(filepath.Join(r.paths.MountsDir(), "*"))
	for _, dir := range bare {
		if err := filesystem.RemoveBare(dir); err != nil {
			t.Error(err)
		}
	}
}
