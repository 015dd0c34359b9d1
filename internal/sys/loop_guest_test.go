// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/voluks/voluks/internal/testenv"
)

const imageSize = 32 << 20

func image(t *testing.T, dir, name string) *os.File {
	t.Helper()
	f := openFile(t, filepath.Join(dir, name))
	must(t, f.Truncate(imageSize))
	return f
}

func attach(t *testing.T, img *os.File) (Loop, *os.File) {
	t.Helper()
	l, f, err := LoopAttach(t.Context(), img, 4096)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return l, f
}

func bound(t *testing.T, l Loop) bool {
	t.Helper()
	b, err := stillBound(l)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func waitUnbound(t *testing.T, l Loop) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); bound(t, l); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s stays bound", l.Path)
		}
	}
}

func TestLoopOnExt4(t *testing.T) {
	testenv.LeakCheck(t)
	dir := testenv.Ext4Dir(t, 0)
	img := image(t, dir, "image")
	dev, ino, err := FileID(img)
	must(t, err)
	l, f := attach(t, img)
	if !l.Direct || !l.Autoclear || l.ReadOnly || l.BlockSize != 4096 || l.BackingDev != dev || l.BackingIno != ino || l.File != img.Name() {
		t.Errorf("%+v of %d %d", l, dev, ino)
	}
	if size, err := BlockDeviceSize(l.Path); err != nil || size != imageSize {
		t.Errorf("size %d, %v", size, err)
	}
	// What is written past the cache on one side is seen past the cache on the other.
	want := bytes.Repeat([]byte("sector"), 4096*2)
	d, err := OpenDirect(l.Path, true)
	must(t, err)
	if d.Size() != imageSize || !d.Direct() {
		t.Errorf("size %d, direct %t", d.Size(), d.Direct())
	}
	_, err = d.WriteAt(want, 1<<20)
	must(t, err)
	must(t, d.Sync())
	must(t, d.Close())
	if got, err := ReadDirect(img.Name(), 1<<20, len(want)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read back: %v", err)
	}
	if major, minor, err := DevOf(l.Path); err != nil || major != l.Major || minor != l.Minor {
		t.Errorf("%d:%d, %v", major, minor, err)
	}
	// A rename changes nothing; the file is what counts.
	must(t, os.Rename(img.Name(), filepath.Join(dir, "renamed")))
	renamed, err := os.Open(filepath.Join(dir, "renamed"))
	must(t, err)
	defer renamed.Close()
	if found, err := LoopsOver(renamed); err != nil || len(found) != 1 || found[0].Path != l.Path {
		t.Errorf("%+v, %v", found, err)
	}
	must(t, f.Close())
	waitUnbound(t, l)
	if found, err := LoopsOver(renamed); err != nil || len(found) != 0 {
		t.Errorf("%+v, %v", found, err)
	}
	if _, err := l.Hold(); !errors.Is(err, ErrNotExist) {
		t.Errorf("hold of an unbound device: %v", err)
	}
}

// tmpfs has no direct I/O on this kernel: the device works without.
func TestLoopOnTmpfs(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	l, _ := attach(t, image(t, t.TempDir(), "image"))
	if l.Direct || l.BlockSize != 4096 {
		t.Errorf("%+v", l)
	}
}

// F16, the one door: the lock on the image lives as long as the device, whoever closed its descriptor.
func TestLoopKeepsTheLock(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	dir := t.TempDir()
	img, other := image(t, dir, "image"), openFile(t, filepath.Join(dir, "image"))
	must(t, TryLock(img))
	l, f := attach(t, img)
	must(t, img.Close())
	if err := TryLock(other); !errors.Is(err, ErrLocked) {
		t.Errorf("second lock while the device is bound: %v", err)
	}
	again, err := l.Hold()
	must(t, err)
	must(t, f.Close())
	if err := TryLock(other); !errors.Is(err, ErrLocked) || !bound(t, l) {
		t.Errorf("second lock while another descriptor holds the device: %v", err)
	}
	must(t, again.Close())
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := LockWait(ctx, other); err != nil {
		t.Error(err)
	}
}

// Others take loop devices at the same time, by other programs: nobody gets a device that is bound to another's file.
func TestLoopRace(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	dir := t.TempDir()
	stranger := image(t, dir, "stranger")
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 8 {
			out, err := exec.Command("losetup", "-f", "--show", stranger.Name()).Output()
			if err != nil {
				continue // losetup itself gives up in such a race
			}
			if out, err := exec.Command("losetup", "-d", strings.TrimSpace(string(out))).CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		}
	})
	for n := range 4 {
		img := image(t, dir, fmt.Sprint("image", n))
		mark := bytes.Repeat([]byte{byte('a' + n)}, 4096)
		_, err := img.WriteAt(mark, 0)
		must(t, err)
		wg.Go(func() {
			for range 10 {
				l, f, err := LoopAttach(t.Context(), img, 4096)
				if err != nil {
					t.Error(err)
					return
				}
				if b, err := ReadDirect(l.Path, 0, 4096); err != nil || !bytes.Equal(b, mark) {
					t.Errorf("%s has another image: %v", l.Path, err)
				}
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// What a lost race looks like: the free device is another's, or is gone, when it comes to binding it. Both are tried again.
func TestLoopTaken(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	dir := t.TempDir()
	l, _ := attach(t, image(t, dir, "first"))
	for _, number := range []int{int(l.Minor), 4000} {
		f, err := openFreeLoop(number)
		if err == nil {
			err = bindLoop(f, image(t, dir, "second"), 4096)
		}
		if !errors.Is(err, errLoopTaken) {
			t.Errorf("device %d: %v, %v", number, f, err)
		}
	}
	if now, err := LoopByDev(l.Major, l.Minor); err != nil || !now.isSame(l) {
		t.Errorf("%+v, %v", now, err)
	}
}

// A device that did not answer is passed over, although the kernel goes on to offer it as free. F12
//
// On this kernel nothing holds up LOOP_CONFIGURE. From 6.15 on it writes the file back first, and TestGuestStuck of package worker meets such a device.
func TestLoopPassedOver(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	ctl, err := open("/dev/loop-control", unix.O_RDWR, 0)
	must(t, err)
	defer ctl.Close()
	finder := loopFinder{ctl, map[int]bool{}}
	for range 12 { // more than the kernel makes at first
		f, err := finder.openFree()
		must(t, err)
		var number int
		if _, err := fmt.Sscanf(f.Name(), "/dev/loop%d", &number); err != nil || finder.hangs[number] {
			t.Fatalf("%s, %v", f.Name(), err)
		}
		must(t, bindLoop(f, image(t, t.TempDir(), "image"), 4096))
		must(t, f.Close())
		finder.hangs[number] = true
	}
}

// F15: a device in use stays bound, and is said to be in use.
func TestLoopDetachInUse(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	dir := t.TempDir()
	t.Run("open", func(t *testing.T) {
		l, f := attach(t, image(t, dir, "open"))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := LoopDetach(ctx, l); !errors.Is(err, ErrBusy) || !bound(t, l) {
			t.Errorf("%v, bound %t", err, bound(t, l))
		}
		must(t, f.Close())
		must(t, LoopDetach(t.Context(), l))
		must(t, LoopDetach(t.Context(), l)) // again: nothing to do
	})
	t.Run("mapped", func(t *testing.T) {
		l, f := attach(t, image(t, dir, "mapped"))
		testenv.DM(t, "mapped", "0 8192 linear "+l.Path+" 0")
		must(t, f.Close())
		start := time.Now()
		if err := LoopDetach(t.Context(), l); !errors.Is(err, ErrBusy) || !bound(t, l) {
			t.Errorf("%v, bound %t", err, bound(t, l))
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("took %v", d)
		}
	})
}

// F15: losetup's own devices have no autoclear. One in use neither goes nor gets a flag that takes it from its user later.
func TestLoopDetachWithoutAutoclear(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	img := image(t, t.TempDir(), "image")
	out, err := exec.Command("losetup", "-f", "--show", img.Name()).Output()
	must(t, err)
	found, err := LoopsOver(img)
	if err != nil || len(found) != 1 || found[0].Path != strings.TrimSpace(string(out)) || found[0].Autoclear {
		t.Fatalf("%+v, %v", found, err)
	}
	l := found[0]
	user, err := l.Hold()
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := LoopDetach(ctx, l); !errors.Is(err, ErrBusy) {
		t.Errorf("in use: %v", err)
	}
	must(t, user.Close())
	if now, err := LoopByDev(l.Major, l.Minor); err != nil || now.Autoclear || !now.isSame(l) {
		t.Errorf("after its user left: %+v, %v", now, err)
	}
	must(t, LoopDetach(t.Context(), l))
	if bound(t, l) {
		t.Error("still bound")
	}
}

// F15: never by number. The device has another file by now.
func TestLoopDetachOfAnothersDevice(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	dir := t.TempDir()
	l, f := attach(t, image(t, dir, "old"))
	must(t, f.Close())
	waitUnbound(t, l)
	img := image(t, dir, "new")
	out, err := exec.Command("losetup", l.Path, img.Name()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	now, err := LoopByDev(l.Major, l.Minor)
	must(t, err)
	must(t, LoopDetach(t.Context(), l))
	if !bound(t, now) {
		t.Error("another's device was unbound")
	}
	if _, err := l.Hold(); !errors.Is(err, ErrNotExist) {
		t.Errorf("held another's device: %v", err)
	}
	must(t, LoopDetach(t.Context(), now))
}

func BenchmarkLoopAttach(b *testing.B) {
	testenv.Guest(b)
	img, err := os.Create(filepath.Join(b.TempDir(), "image"))
	if err != nil {
		b.Fatal(err)
	}
	defer img.Close()
	if err := img.Truncate(imageSize); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		_, f, err := LoopAttach(b.Context(), img, 4096)
		if err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

// A look for the loop device of one file must not wait for another device whose disk does not answer. F12 F15
func TestLoopsOverAsksNoOthers(t *testing.T) {
	good := testenv.Ext4Dir(t, 0)
	disk := testenv.Disk(t, 1, 64<<20)
	dev := testenv.DM(t, "hangs", "0 131072 linear "+disk+" 0\n")
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", dev).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	bad := t.TempDir()
	must(t, Mount(dev, bad, "ext4", 0, ""))
	t.Cleanup(func() { must(t, Unmount(bad)) })
	foreign := image(t, bad, "foreign")
	must(t, Fallocate(foreign, imageSize))
	must(t, foreign.Sync())
	other, held := attach(t, foreign)
	img := image(t, good, "image")
	ours, keep := attach(t, img)

	testenv.DMSuspend(t, "hangs")
	var waiting sync.WaitGroup
	waiting.Go(func() { // a write in flight, for which a change of the device's mode waits
		d, err := OpenDirect(other.Path, true)
		if err == nil {
			_, err = d.WriteAt(make([]byte, 4096), 0)
			err = errors.Join(err, d.Close())
		}
		if err != nil {
			t.Error(err)
		}
	})
	inFlight := filepath.Join("/sys/block", filepath.Base(other.Path), "inflight")
	for {
		b, err := os.ReadFile(inFlight)
		must(t, err)
		if fields := strings.Fields(string(b)); len(fields) == 2 && fields[1] != "0" {
			break
		}
		time.Sleep(time.Millisecond)
	}
	waiting.Go(func() { _ = unix.IoctlSetInt(int(held.Fd()), unix.LOOP_SET_DIRECT_IO, 0) })

	found := make(chan []Loop, 1)
	go func() {
		loops, err := LoopsOver(img)
		if err != nil {
			t.Error(err)
		}
		found <- loops
	}()
	select {
	case loops := <-found:
		if len(loops) != 1 || loops[0].Path != ours.Path {
			t.Errorf("%+v", loops)
		}
	case <-time.After(10 * time.Second):
		t.Error("the look hangs with the other device")
	}
	testenv.DMResume(t, "hangs")
	waiting.Wait()
	must(t, held.Close())
	must(t, keep.Close())
	waitUnbound(t, other)
	waitUnbound(t, ours)
}
