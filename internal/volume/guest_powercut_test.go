// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/luks"
)

// recorded is a node whose state directory is a file system on a disk of its own, all writes to which are recorded.
type recorded struct {
	*real
	recorder *testenv.Recorder
	dir      string // where the disk is mounted
	dev      string // the disk
	attached bool
}

// newRecorded makes such a node with a disk of that size, and mounts it.
func newRecorded(t *testing.T, size int64) *recorded {
	t.Helper()
	r := &recorded{real: newReal(t)}
	blank := filepath.Join(r.root, "blank")
	if err := errors.Join(os.WriteFile(blank, nil, 0o600), os.Truncate(blank, size)); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-N", "128", "-J", "size=4", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", blank)
	first, err := os.ReadFile(blank)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(blank); err != nil {
		t.Fatal(err)
	}
	r.dir = filepath.Join(r.root, "disk")
	if err := os.Mkdir(r.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r.paths.State = filepath.Join(r.dir, "state")
	r.recorder = testenv.Record(t, "volume-recorded", first)
	t.Cleanup(func() { // before the recorder goes
		if r.attached {
			r.detach()
		}
	})
	r.attach(r.recorder.Path)
	return r
}

func (r *recorded) attach(dev string) {
	r.t.Helper()
	if err := syscall.Mount(dev, r.dir, "ext4", 0, ""); err != nil {
		r.t.Fatal(err)
	}
	r.dev, r.attached = dev, true
}

func (r *recorded) detach() {
	r.t.Helper()
	r.attached = false
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) { // the last close of a loop device is a moment later
		if err := syscall.Unmount(r.dir, 0); err == nil {
			return
		} else if !errors.Is(err, syscall.EBUSY) || time.Now().After(end) {
			r.t.Errorf("unmount: %v; the kernel has %v", err, r.tables())
			return
		}
	}
}

// boot starts the node again with that content of its disk, after the recording.
func (r *recorded) boot(content []byte) {
	r.t.Helper()
	dev := testenv.Disk(r.t, 0, int64(len(content)))
	f, err := os.OpenFile(dev, os.O_WRONLY, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	_, err = f.WriteAt(content, 0)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		r.t.Fatal(err)
	}
	if err := os.RemoveAll(r.paths.Run); err != nil { // it is gone at boot
		r.t.Fatal(err)
	}
	r.attach(dev)
}

// F9: the power goes at each flush of a creation, as the disk below the state directory has logged them. The next boot has no volume, or one that it
// finishes or makes anew; once Create has answered it is there, and what was written and closed later is in it.
func TestGuestPowerCutCreate(t *testing.T) {
	const (
		disk = 73 << 20 // for two: what cannot be finished is kept beside what is made anew
		size = "size=16M"
	)
	r := newRecorded(t, disk)
	r.create("db", size)
	r.recorder.Mark(t, "created")
	r.put(r.mount("db", "a"), canary)
	r.unmount("db", "a")
	r.recorder.Mark(t, "written")
	r.detach()

	cuts, before, early := 0, "", map[string]int{}
	r.recorder.Replay(t, func(content []byte, w testenv.Write) {
		// After its answer every cut leaves the same volume; the first one with all that was written is enough.
		if !w.Flush || t.Failed() || w.Note == "created" || w.Note == before && w.Note != "" {
			return
		}
		cuts++
		before = w.Note
		at := fmt.Sprintf("flush %d, after %q", cuts, w.Note)
		r.boot(content)
		defer r.detach()
		if err := r.manager().Reconcile(t.Context()); err != nil {
			t.Errorf("%s: reconcile: %v", at, err)
		}
		info, err := r.manager().Inspect(t.Context(), "db")
		switch {
		case errors.Is(err, volume.ErrNotFound):
			early["none"]++
		case err != nil:
			t.Errorf("%s: inspect: %v", at, err)
		case info.Finished():
			early["finished"]++
		default:
			early["unfinished"]++
		}
		if w.Note != "" && (err != nil || !info.Finished()) {
			t.Errorf("%s: %+v, %v", at, info, err)
		}
		if _, made, err := r.manager().Create(t.Context(), r.spec("db", size)); err != nil || made && w.Note != "" {
			t.Errorf("%s: create: made %t, %v", at, made, err)
			return
		}
		path := r.mount("db", "b")
		if w.Note == "written" {
			r.get(path, canary)
		}
		r.put(path, "after "+canary)
		r.unmount("db", "b")
		r.get(r.mount("db", "b"), "after "+canary)
		r.unmount("db", "b")
	})
	t.Logf("%d cuts, before the answer: %v", cuts, early)
	if cuts < 10 || before != "written" || early["none"] == 0 || early["finished"] == 0 {
		t.Errorf("%d cuts up to %q, states %v: the recording does not tell of a creation", cuts, before, early)
	}
}

// cutAfter ends the recording, cuts the power at random instants after the mark begun, and starts the node again with what each cut may have left: see
// testenv.PowerOff. check says what it found, and answered is whether the operation had been, by the mark done.
func (r *recorded) cutAfter(begun, done string, check func(at string, answered bool) string) {
	r.t.Helper()
	times := testenv.PowerCuts(r.t, 6)
	random, seed := testenv.Random(r.t)
	base, writes := r.recorder.After(r.t, begun)
	if len(writes) < 20 || writes[len(writes)-1].Note != done {
		r.t.Fatalf("%d entries were logged, the last one after %q", len(writes), writes[max(0, len(writes)-1)].Note)
	}
	found, disk := map[string]int{}, make([]byte, len(base))
	for i := range times {
		entry := random.IntN(len(writes))
		if i == 0 {
			entry = len(writes) - 1
		}
		testenv.PowerOff(disk, random, 4096, base, writes[:entry+1])
		at := fmt.Sprintf("seed %d, cut %d, in entry %d of %d, after %q", seed, i, entry, len(writes), writes[entry].Note)
		r.boot(disk)
		if err := r.manager().Reconcile(r.t.Context()); err != nil {
			r.t.Errorf("%s: reconcile: %v", at, err)
		}
		found[check(at, writes[entry].Note == done)]++
		r.detach()
		if r.t.Failed() {
			r.t.Fatal(at)
		}
	}
	r.t.Logf("%d power cuts in %d entries: %v", times, len(writes), found)
}

// sound has the file system of a mounted volume checked while it stands still.
func (r *real) sound(name, path string) {
	r.t.Helper()
	run(r.t, "fsfreeze", "--freeze", path)
	defer run(r.t, "fsfreeze", "--unfreeze", path)
	run(r.t, "e2fsck", "-f", "-n", "/dev/mapper/"+luks.MappingName(r.inspect(name).UUID))
}

// F44: the power goes while a mounted volume grows. The next boot has it with its old or its new size and all of its data; the same command completes it.
func TestGuestPowerCutGrow(t *testing.T) {
	const (
		disk   = 73 << 20
		before = 16 << 20
		want   = 32 << 20
	)
	r := newRecorded(t, disk)
	r.create("db", fmt.Sprintf("size=%dM", before>>20))
	path := r.mount("db", "a")
	r.put(path, canary)
	data := make([]byte, 2<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	if err := os.WriteFile(filepath.Join(path, "data"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	syscall.Sync()
	r.recorder.Mark(t, "begun")
	if _, err := r.manager().Grow(t.Context(), "db", want); err != nil {
		t.Fatal(err)
	}
	r.recorder.Mark(t, "grown")
	r.unmount("db", "a")
	r.detach()

	r.cutAfter("begun", "grown", func(at string, answered bool) string {
		path := r.mount("db", "b")
		size := r.inspect("db").Size
		if size != want && (answered || size != before) {
			t.Errorf("%s: the size is %d", at, size)
		}
		if _, err := r.manager().Grow(t.Context(), "db", want); err != nil {
			t.Errorf("%s: %v", at, err)
		}
		r.grew("db", path, want)
		if b, err := os.ReadFile(filepath.Join(path, "data")); err != nil || string(b) != string(data) {
			t.Errorf("%s: the data differ: %d bytes, %v", at, len(b), err)
		}
		r.sound("db", path)
		r.unmount("db", "b")
		return fmt.Sprint(size>>20, " MiB")
	})
}

// F6 F27: the power goes while a removed volume is erased. Until it has begun the volume can be brought back whole; afterwards it cannot, and the same
// command completes it: then nothing of the header is on the disk.
func TestGuestPowerCutErase(t *testing.T) {
	r := newRecorded(t, 73<<20)
	info := r.create("db", "size=16M")
	r.put(r.mount("db", "a"), canary)
	r.unmount("db", "a")
	pieces := pieces(t, r.image("db"))
	if err := r.manager().Remove(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	syscall.Sync()
	if found := findRaw(t, r.dev, pieces); found != len(pieces) {
		t.Fatalf("the control: %d of %d pieces of the header are found", found, len(pieces))
	}
	r.recorder.Mark(t, "begun")
	if _, err := r.manager().Erase(t.Context(), seen(t, r.manager(), info.UUID)); err != nil {
		t.Fatal(err)
	}
	r.recorder.Mark(t, "erased")
	r.detach()

	r.cutAfter("begun", "erased", func(at string, answered bool) string {
		state := "gone"
		switch removed, err := r.manager().RemovedVolumes(t.Context()); {
		case err != nil || answered && len(removed) > 0:
			t.Errorf("%s: removed volumes: %+v, %v", at, removed, err)
		case len(removed) > 0:
			state = "being erased"
			if _, err := r.manager().Undelete(t.Context(), info.UUID); err == nil {
				state = "removed"
				r.get(r.mount("db", "b"), canary)
				r.unmount("db", "b")
				if err := r.manager().Remove(t.Context(), "db"); err != nil {
					t.Errorf("%s: %v", at, err)
				}
			}
			if _, err := r.manager().Erase(t.Context(), seen(t, r.manager(), info.UUID)); err != nil && !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("%s: %s: erase: %v", at, state, err)
			}
		}
		syscall.Sync()
		if found := findRaw(t, r.dev, pieces); found > 0 {
			t.Errorf("%s: %s: %d pieces of the header are left", at, state, found)
		}
		return state
	})
}
