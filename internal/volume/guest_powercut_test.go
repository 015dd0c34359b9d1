// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
)

// recorded is a node whose state directory is a file system on a disk of its own, all writes to which are recorded.
type recorded struct {
	*real
	recorder *testenv.Recorder
	dir      string // where the disk is mounted
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
	r.attached = true
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
