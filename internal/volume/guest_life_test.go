// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/kek/file"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

func TestGuestLife(t *testing.T) {
	for _, c := range []struct {
		fs   string
		opts []string
	}{
		{"ext4", []string{"uid=70", "gid=71", "mode=2750", "mount=noatime"}},
		{"btrfs", []string{"size=128M", "alloc=sparse", "discard=true"}},
		{"xfs", []string{"size=320M", "alloc=sparse"}},
	} {
		t.Run(c.fs, func(t *testing.T) {
			r := newReal(t)
			begin := time.Now()
			lap := func(what string) {
				t.Logf("%s: %v", what, time.Since(begin).Round(time.Millisecond))
				begin = time.Now()
			}
			info := r.create("db", append(c.opts, "fs="+c.fs)...)
			lap("create")
			r.clean()
			if info.State != volume.StateReady || info.FS != c.fs || len(info.Slots) != 2 {
				t.Errorf("created %+v", info)
			}
			path := r.mount("db", "a")
			lap("mount")
			r.put(path, canary)
			st, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if owner := st.Sys().(*syscall.Stat_t); c.fs == "ext4" && (owner.Uid != 70 || owner.Gid != 71 || st.Mode() != os.ModeDir|os.ModeSetgid|0o750) {
				t.Errorf("data directory: %d:%d %v", owner.Uid, owner.Gid, st.Mode())
			}
			// F26: nothing is in the directory that a database would stumble over.
			if entries, err := os.ReadDir(path); err != nil || len(entries) != 1 {
				t.Errorf("entries %v, %v", entries, err)
			}
			begin = time.Now()
			got := r.inspect("db")
			lap("inspect")
			if got.State != volume.StateMounted || got.Mountpoint != path || got.Used == nil || *got.Avail <= 0 {
				t.Errorf("mounted %+v", got)
			}
			table := run(t, "dmsetup", "table", luks.MappingName(info.UUID))
			t.Logf("dm table: %s", table)
			if !strings.Contains(table, "crypt aes-xts-plain64 :64:logon:cryptsetup:") || strings.Contains(table, "allow_discards") != (c.fs == "btrfs") {
				t.Errorf("table %s", table)
			}
			begin = time.Now()
			r.unmount("db", "a")
			lap("unmount")
			r.clean()
			// F21: an unmounted volume is an error for whoever writes into its mountpoint, root included.
			if err := os.WriteFile(filepath.Join(r.paths.Mount("db"), "x"), nil, 0o600); err == nil {
				t.Error("plaintext could be written into the bare mountpoint")
			}
			begin = time.Now()
			r.get(r.mount("db", "b"), canary)
			lap("mount again")
			r.unmount("db", "b")
			begin = time.Now()
			if err := r.manager().Remove(t.Context(), "db"); err != nil {
				t.Fatal(err)
			}
			lap("remove")
			for _, gone := range []string{r.paths.VolumeDir("db"), r.paths.Mount("db"), r.paths.Holders("db")} {
				if _, err := os.Lstat(gone); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s: %v", gone, err)
				}
			}
			if _, err := os.Lstat(filepath.Join(r.paths.RemovedDir(), info.UUID, "image")); err != nil {
				t.Error(err)
			}
		})
	}
}

// F15, F16, F22: any number of mounts at the same time are one loop device and one mapping; other users of loop devices are not disturbed.
func TestGuestConcurrent(t *testing.T) {
	r := newReal(t)
	r.create("db")
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	loop := strings.TrimSpace(run(t, "losetup", "--find", "--show", other))
	defer run(t, "losetup", "-d", loop)
	const callers = 10
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			if _, err := r.manager().Mount(t.Context(), "db", docker(fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := r.tables(); len(got) != 4 { // mapping, two loop devices, one mount
		t.Errorf("the kernel has %v", got)
	}
	for i := range callers {
		wg.Go(func() {
			if err := r.manager().Unmount(t.Context(), "db", fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := r.tables(); len(got) != 1 || got[0] != other {
		t.Errorf("the kernel has %v", got)
	}
}

// F17: a mount namespace that has a private copy of everything keeps the mapping busy.
func TestGuestForeignNamespace(t *testing.T) {
	r := newReal(t)
	r.create("db")
	r.put(r.mount("db", "a"), canary)
	sleeper := exec.Command("sleep", "1000")
	sleeper.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS} // which os/exec makes private
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	end := func() { sleeper.Process.Kill(); sleeper.Wait() }
	defer end()
	err := r.manager().Unmount(t.Context(), "db", "a")
	var held *volume.HeldError
	if !errors.Is(err, volume.ErrBusy) || !errors.As(err, &held) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", sleeper.Process.Pid)) {
		t.Errorf("got %v", err)
	}
	if info := r.inspect("db"); info.State != volume.StateClosing || info.Mountpoint != "" || len(info.Holders) != 0 {
		t.Errorf("got %+v", info)
	}
	if err := r.manager().Remove(t.Context(), "db"); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("remove: %v", err)
	}
	r.get(r.mount("db", "b"), canary)
	if err := r.manager().Unmount(t.Context(), "db", "b"); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("got %v", err)
	}
	end()
	if err := r.manager().Reconcile(t.Context()); err != nil {
		t.Error(err)
	}
	r.clean()
}

// A process of the host sits in the volume: the error says which.
func TestGuestOpenFile(t *testing.T) {
	r := newReal(t)
	r.create("db")
	path := r.mount("db", "a")
	f, err := os.Create(filepath.Join(path, "open"))
	if err != nil {
		t.Fatal(err)
	}
	err = r.manager().Unmount(t.Context(), "db", "a")
	if !errors.Is(err, volume.ErrBusy) || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
		t.Errorf("got %v", err)
	}
	f.Close()
	if err := r.manager().Settle(t.Context(), "db"); err != nil {
		t.Error(err)
	}
	r.clean()
}

// F14, F16: the container is open by hand, or its image is bound by hand.
func TestGuestOtherHands(t *testing.T) {
	r := newReal(t)
	info := r.create("db")
	loop := strings.TrimSpace(run(t, "losetup", "--find", "--show", "--sector-size", "4096", r.image("db")))
	if _, err := r.manager().Mount(t.Context(), "db", docker("a")); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), loop) {
		t.Errorf("image in other hands: %v", err)
	}
	if err := r.manager().Remove(t.Context(), "db"); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("remove: %v", err)
	}
	keyring, err := r.keyring(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := luks.At(loop)
	slot, key, err := keyslot.Unlock(t.Context(), c, keyring)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	if err := c.Open(luks.OpenParams{Name: "byhand", Slot: slot, Key: key, Expect: header.Expect{UUID: info.UUID}}); err != nil {
		t.Fatal(err)
	}
	run(t, "losetup", "-d", loop) // it stays while the mapping uses it, and goes with it
	if _, err := r.manager().Mount(t.Context(), "db", docker("a")); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "cryptsetup close byhand") {
		t.Errorf("open by hand: %v", err)
	}
	if err := luks.Close("byhand"); err != nil {
		t.Fatal(err)
	}
	r.mount("db", "a")
	// While it is open, cryptsetup on the image does not get it, with the right key either: it waits for the lock that the loop device holds. The
	// control, once it is closed, is at the end.
	cryptsetup := func(image string) (int, string) {
		cmd := exec.Command("timeout", "5", "cryptsetup", "open", "--test-passphrase", "--batch-mode", "--key-file", "-", "--key-slot", fmt.Sprint(slot), image)
		cmd.Stdin = bytes.NewReader(key.Bytes())
		out, _ := cmd.CombinedOutput()
		return cmd.ProcessState.ExitCode(), string(out)
	}
	if status, out := cryptsetup(r.image("db")); status != 124 {
		t.Errorf("cryptsetup on the image of an open volume ends with %d: %s", status, out)
	}
	if got := r.tables(); len(got) != 3 {
		t.Errorf("the kernel has %v", got)
	}
	r.unmount("db", "a")
	r.clean()
	if status, out := cryptsetup(r.image("db")); status != 0 {
		t.Errorf("cryptsetup on the image of a closed volume ends with %d: %s", status, out)
	}
}

// F7, F28: without the key nothing is mounted, nothing is written, and it is said why.
func TestGuestWithoutKey(t *testing.T) {
	r := newReal(t)
	r.create("db")
	if err := os.Rename(r.paths.MasterKey(), r.paths.MasterKey()+".old"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.manager().Mount(t.Context(), "db", docker("a")); !errors.Is(err, volume.ErrConfig) && !errors.Is(err, volume.ErrLocked) {
		t.Errorf("missing: %v", err)
	}
	if _, err := file.Generate(r.paths.MasterKey()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.manager().Mount(t.Context(), "db", docker("a")); !errors.Is(err, volume.ErrLocked) {
		t.Errorf("another: %v", err)
	}
	if info := r.inspect("db"); info.State != volume.StateLocked || info.Reason == "" {
		t.Errorf("got %+v", info)
	}
	r.clean()
	if err := os.Rename(r.paths.MasterKey()+".old", r.paths.MasterKey()); err != nil {
		t.Fatal(err)
	}
	r.mount("db", "a")
	r.unmount("db", "a")
}

// F1, F2, F48 and bad input: an image that is not what it was. Nothing is formatted, nothing stays open.
func TestGuestSpoiltImage(t *testing.T) {
	zero := func(t *testing.T, image string, from, n int64) {
		t.Helper()
		f, err := os.OpenFile(image, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(make([]byte, n), from); err != nil {
			t.Fatal(err)
		}
	}
	r := newReal(t)
	r.create("db")
	good, err := os.ReadFile(r.image("db"))
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(t *testing.T, image string){
		"header zeroed":       func(t *testing.T, image string) { zero(t, image, 0, backing.HeaderSize) },
		"both copies damaged": func(t *testing.T, image string) { zero(t, image, 4200, 100); zero(t, image, 64<<10+4200, 100) },
		"all zeros":           func(t *testing.T, image string) { zero(t, image, 0, int64(len(good))) },
		"cut in the header":   func(t *testing.T, image string) { os.Truncate(image, 1<<20) },
		"cut in the middle":   func(t *testing.T, image string) { os.Truncate(image, int64(len(good))/2) },
		"cut by a byte":       func(t *testing.T, image string) { os.Truncate(image, int64(len(good))-1) },
		"empty":               func(t *testing.T, image string) { os.Truncate(image, 0) },
		"no file":             func(t *testing.T, image string) { os.Remove(image) },
		"a directory":         func(t *testing.T, image string) { os.Remove(image); os.Mkdir(image, 0o700) },
		"a link":              func(t *testing.T, image string) { os.Rename(image, image+".x"); os.Symlink(image+".x", image) },
	} {
		t.Run(name, func(t *testing.T) {
			spoil(t, r.image("db"))
			before, _ := os.ReadFile(r.image("db"))
			_, err := r.manager().Mount(t.Context(), "db", docker("a"))
			t.Log(err)
			if !errors.Is(err, volume.ErrDamaged) {
				t.Errorf("mount: %v", err)
			}
			if _, made, err := r.manager().Create(t.Context(), r.spec("db")); made {
				t.Errorf("create: made %t, %v", made, err)
			}
			if after, _ := os.ReadFile(r.image("db")); string(after) != string(before) {
				t.Error("the image was written")
			}
			r.clean()
			os.RemoveAll(r.image("db"))
			os.RemoveAll(r.image("db") + ".x")
			if err := os.WriteFile(r.image("db"), good, 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
	// One good copy is enough; libcryptsetup repairs the other.
	zero(t, r.image("db"), 4200, 100)
	r.mount("db", "a")
	r.unmount("db", "a")
	if h, err := luks.At(r.image("db")).Header(); err != nil || h.Damage() != nil {
		t.Errorf("header: %v", err)
	}
}
