// SPDX-License-Identifier: Apache-2.0

package backing

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
)

func attach(t *testing.T, i *Image) *Attachment {
	t.Helper()
	a, err := i.Attach(t.Context())
	must(t, err)
	t.Cleanup(func() { _ = a.Close() })
	return a
}

func waitDetached(t *testing.T, i *Image) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		dev, ok, err := i.Attached()
		must(t, err)
		if !ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("stays attached to %s", dev)
		}
	}
}

func TestAttachLife(t *testing.T) {
	testenv.LeakCheck(t)
	i := At(filepath.Join(testenv.Ext4Dir(t, 0), "image"))
	must(t, i.Create(t.Context(), size, Full))
	must(t, i.Detach(t.Context()))
	a := attach(t, i)
	if !a.Direct || a.Loop.BlockSize != BlockSize {
		t.Errorf("%+v", a)
	}
	if n, err := sys.BlockDeviceSize(a.Path); err != nil || n != size { // F8
		t.Errorf("device has %d bytes, %v", n, err)
	}
	must(t, ProbeBlank(t.Context(), a.Path))
	if dev, ok, err := i.Attached(); err != nil || !ok || dev != a.Path {
		t.Errorf("%s, %t, %v", dev, ok, err)
	}
	// F14: again is the same, also after whoever attached first is gone.
	b := attach(t, i)
	must(t, a.Close())
	must(t, a.Close())
	if b.Path != a.Path {
		t.Errorf("%s and %s", a.Path, b.Path)
	}
	if err := i.Remove(); !errors.Is(err, ErrInUse) { // F15
		t.Errorf("remove while attached: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := i.Detach(ctx); !errors.Is(err, ErrInUse) || !errors.Is(err, sys.ErrBusy) {
		t.Errorf("detach while open: %v", err)
	}
	must(t, b.Close())
	must(t, i.Detach(t.Context()))
	if _, ok, err := i.Attached(); err != nil || ok {
		t.Errorf("%t, %v", ok, err)
	}
	must(t, i.Remove())
}

// A mapping keeps the device; nobody else has to.
func TestMappingHoldsAttachment(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	i := made(t, t.TempDir())
	a := attach(t, i)
	t.Run("mapped", func(t *testing.T) {
		testenv.DM(t, "on-image", "0 8192 linear "+a.Path+" 0")
		must(t, a.Close())
		if err := i.Detach(t.Context()); !errors.Is(err, ErrInUse) {
			t.Errorf("detach: %v", err)
		}
		if err := i.Remove(); !errors.Is(err, ErrInUse) {
			t.Errorf("remove: %v", err)
		}
		b := attach(t, i)
		if b.Path != a.Path {
			t.Errorf("attached to %s while a mapping has %s", b.Path, a.Path)
		}
		must(t, b.Close())
	})
	waitDetached(t, i)
	must(t, i.Remove())
}

// F16: any number of attempts at once give one device.
func TestConcurrentAttach(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	i := made(t, t.TempDir())
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[string]int{}
	var all []*Attachment
	for range 8 {
		wg.Go(func() {
			a, err := i.Attach(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[a.Path]++
			all = append(all, a)
		})
	}
	wg.Wait()
	if len(seen) != 1 || len(all) != 8 {
		t.Errorf("devices: %v", seen)
	}
	for _, a := range all {
		must(t, a.Close())
	}
	waitDetached(t, i)
}

// Others at the image: it is not shared with them, and nothing of theirs is touched.
func TestInUseByOthers(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	i := made(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()

	f, err := os.Open(i.Path())
	must(t, err)
	defer f.Close()
	must(t, sys.TryLock(f))
	if _, err := i.Attach(ctx); !errors.Is(err, ErrInUse) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked: %v", err)
	}
	must(t, f.Close())

	var devs []string
	for range 2 {
		out, err := exec.Command("losetup", "-f", "--show", i.Path()).Output()
		must(t, err)
		devs = append(devs, strings.TrimSpace(string(out)))
		if _, err := i.Attach(t.Context()); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), devs[0]) {
			t.Errorf("bound to %v: %v", devs, err)
		}
		if err := i.Detach(t.Context()); !errors.Is(err, ErrInUse) {
			t.Errorf("detach: %v", err)
		}
		if err := i.Remove(); !errors.Is(err, ErrInUse) {
			t.Errorf("remove: %v", err)
		}
	}
	if dev, ok, err := i.Attached(); !errors.Is(err, ErrInUse) {
		t.Errorf("%s, %t, %v", dev, ok, err)
	}
	for _, dev := range devs {
		if out, err := exec.Command("losetup", "-d", dev).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	must(t, attach(t, i).Close())
	waitDetached(t, i)
}

// The one door: cryptsetup by hand does not open an attached image. (It takes the lock for everything that reads or writes the header as such;
// luksFormat by hand wipes the key slots before that, which no advisory lock prevents.)
func TestCryptsetupByHandIsKeptOut(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	dir := t.TempDir()
	i := made(t, dir)
	key := filepath.Join(dir, "key")
	must(t, os.WriteFile(key, []byte("not so secret"), 0o600))
	cryptsetup := func(timeout time.Duration, args ...string) error {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		cmd := exec.CommandContext(ctx, "cryptsetup", append(args, "--key-file", key)...)
		cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1")
		return cmd.Run()
	}
	must(t, cryptsetup(time.Minute, "-q", "luksFormat", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", i.Path()))
	a := attach(t, i)
	if err := cryptsetup(2*time.Second, "open", i.Path(), "by-hand"); err == nil {
		t.Error("opened an image that is attached")
	}
	if _, err := sys.DMByName("by-hand"); !errors.Is(err, sys.ErrNotExist) {
		t.Errorf("a mapping is there: %v", err)
	}
	must(t, a.Close())
	waitDetached(t, i)
	// The control, and the other way round: what was opened by hand is not attached a second time.
	must(t, cryptsetup(time.Minute, "open", i.Path(), "by-hand"))
	if _, err := i.Attach(t.Context()); !errors.Is(err, ErrInUse) {
		t.Errorf("attach while opened by hand: %v", err)
	}
	must(t, cryptsetup(time.Minute, "close", "by-hand"))
	must(t, attach(t, i).Close())
}

func TestCreateOnFullDisk(t *testing.T) {
	testenv.LeakCheck(t)
	dir := testenv.Ext4Dir(t, 0)
	before, err := sys.Statfs(dir)
	must(t, err)
	i := At(filepath.Join(dir, "image"))
	err = i.Create(t.Context(), HeaderSize+before.Size, Full)
	var space *NoSpaceError
	if !errors.As(err, &space) || space.Path != dir || space.Need != HeaderSize+before.Size || space.Avail <= 0 {
		t.Errorf("%v, %+v", err, space)
	}
	if _, err := os.Stat(i.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
	if err := Reserve(t.Context(), dir, before.Avail+1); !errors.As(err, &space) {
		t.Error(err)
	}
	must(t, Reserve(t.Context(), dir, before.Avail))
}

func TestCreateOnBtrfs(t *testing.T) {
	testenv.LeakCheck(t)
	i := At(filepath.Join(testenv.BtrfsDir(t, 0), "image"))
	must(t, i.Create(t.Context(), size, Full))
	out, err := exec.Command("lsattr", i.Path()).Output()
	if err != nil || !strings.Contains(strings.Fields(string(out))[0], "C") {
		t.Errorf("%s, %v", out, err)
	}
	a := attach(t, i)
	if !a.Direct {
		t.Error("no direct I/O")
	}
	must(t, a.Close())
	waitDetached(t, i)
}

// F1, F2: a device that fails in one way or another is an error and never blank.
func TestProbeBlankOfBrokenDevices(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	const sectors = "524288" // 256 MiB
	disk := blank(t)
	for name, table := range map[string]string{
		"all fails":         "0 " + sectors + " error",
		"head fails":        "0 8 error\n8 524280 zero",
		"end of head fails": "0 32760 zero\n32760 8 error\n32768 491520 zero",
		"tail fails":        "0 524280 zero\n524280 8 error",
		"middle fails":      "0 65536 zero\n65536 393216 error\n458752 65536 zero",
		"flakey, down":      "0 " + sectors + " flakey " + disk + " 0 0 3600",
	} {
		t.Run(name, func(t *testing.T) {
			err := ProbeBlank(t.Context(), testenv.DM(t, "probed", table))
			var n *NotBlankError
			if err == nil || errors.As(err, &n) {
				t.Errorf("%v", err)
			}
			if err != nil && !strings.Contains(err.Error(), "input/output error") {
				t.Errorf("does not say why: %v", err)
			}
		})
	}
	t.Run("reads zeros", func(t *testing.T) {
		// What a probe cannot see; the record of the volume must say "never formatted" too.
		must(t, ProbeBlank(t.Context(), testenv.DM(t, "probed", "0 "+sectors+" zero")))
	})
	t.Run("vanished", func(t *testing.T) {
		if err := ProbeBlank(t.Context(), "/dev/mapper/none"); !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	})
	t.Run("no table", func(t *testing.T) { // F4: the node is there, the device is not
		if out, err := exec.Command("dmsetup", "create", "empty", "--notable", "--noudevsync").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		defer func() { must(t, exec.Command("dmsetup", "remove", "empty", "--noudevsync").Run()) }()
		d, err := sys.DMByName("empty")
		must(t, err)
		if len(d.Targets) != 0 {
			t.Errorf("%+v", d)
		}
		if err := ProbeBlank(t.Context(), "/dev/mapper/empty"); err == nil {
			t.Error("blank")
		}
	})
	t.Run("fails after blkid", func(t *testing.T) {
		// blkid itself breaks the device and reports status 2, as it does when its reads fail.
		dev := testenv.DM(t, "probed", "0 "+sectors+" zero")
		bin := t.TempDir()
		script := "#!/bin/sh\nexport DM_DISABLE_UDEV=1\ndmsetup suspend probed --noudevsync && dmsetup load probed --table '0 " + sectors +
			" error' && dmsetup resume probed --noudevsync || exit 99\nexit 2\n"
		must(t, os.WriteFile(filepath.Join(bin, "blkid"), []byte(script), 0o755))
		t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
		err := ProbeBlank(t.Context(), dev)
		if err == nil || !strings.Contains(err.Error(), "input/output error") {
			t.Error(err)
		}
	})
}

// F3, F6: real content on a real device.
func TestProbeBlankOfUsedDevices(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	sh := func(script string) func(*testing.T, string) {
		return func(t *testing.T, dev string) {
			t.Helper()
			if out, err := exec.Command("sh", "-ec", script, dev).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	for name, use := range map[string]func(*testing.T, string){
		"ext4":            sh("mkfs.ext4 -q -F -E nodiscard $0"),
		"partition table": func(t *testing.T, dev string) { mbr(t, dev, 0x83, 256<<11) },
		"tail":            sh("dd if=/dev/urandom of=$0 bs=4096 count=1 seek=$(($(blockdev --getsz $0) / 8 - 1)) status=none oflag=direct"),
		"middle":          sh("dd if=/dev/urandom of=$0 bs=1M seek=100 count=8 status=none oflag=direct"),
	} {
		t.Run(name, func(t *testing.T) {
			dev := blank(t)
			must(t, ProbeBlank(t.Context(), dev))
			use(t, dev)
			err := ProbeBlank(t.Context(), dev)
			var n *NotBlankError
			if !errors.As(err, &n) {
				t.Error(err)
			}
		})
	}
}

// blank returns a blank device of 256 MiB.
func blank(t *testing.T) string {
	t.Helper()
	i := At(filepath.Join(t.TempDir(), "image"))
	must(t, i.Create(t.Context(), 256<<20, Sparse))
	return attach(t, i).Path
}

func BenchmarkAttach(b *testing.B) {
	testenv.Guest(b)
	i := made(b, b.TempDir())
	for b.Loop() {
		a, err := i.Attach(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if err := a.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkProbeBlank(b *testing.B) {
	testenv.Guest(b)
	i := made(b, b.TempDir())
	for b.Loop() {
		if err := ProbeBlank(b.Context(), i.Path()); err != nil {
			b.Fatal(err)
		}
	}
}
