// SPDX-License-Identifier: Apache-2.0

package filesystem

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
)

// loop returns a loop device with blocks of 4096 bytes over a new sparse file.
func loop(t testing.TB, bytes int64) string {
	t.Helper()
	testenv.Guest(t)
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(bytes))
	l, held, err := sys.LoopAttach(t.Context(), f, 4096)
	must(t, err)
	t.Cleanup(func() { _ = held.Close() })
	return l.Path
}

func mountPoint(t testing.TB) string {
	t.Helper()
	// By itself, since Unmount is what is tested.
	dir := filepath.Join(t.TempDir(), "mnt")
	must(t, os.Mkdir(dir, 0o700))
	return dir
}

// mountAt mounts for the test.
func mountAt(t testing.TB, dev, dir string, s Spec) {
	t.Helper()
	must(t, Mount(t.Context(), dev, dir, s))
	t.Cleanup(func() {
		if err := Unmount(context.Background(), dir); err != nil && !errors.Is(err, sys.ErrNotExist) {
			t.Error(err)
		}
	})
}

func infoOf(t testing.TB, dir string) sys.MountInfo {
	t.Helper()
	table, err := sys.MountInfoOf("self")
	must(t, err)
	for _, m := range table {
		if m.Mountpoint == dir {
			return m
		}
	}
	t.Fatalf("%s is not mounted", dir)
	return sys.MountInfo{}
}

func TestLifeOfAFilesystem(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	for _, typ := range Types() {
		t.Run(string(typ), func(t *testing.T) {
			dev, dir := loop(t, 400<<20), mountPoint(t)
			s := Spec{Type: typ, UUID: uuid, Label: "some data"}
			must(t, Make(t.Context(), dev, s))
			sig, err := Probe(t.Context(), dev)
			if err != nil || *sig != (Signature{string(typ), uuid, "some data"}) {
				t.Errorf("%+v, %v", sig, err)
			}
			mountAt(t, dev, dir, s)
			m := infoOf(t, dir)
			if m.FSType != string(typ) || !strings.Contains(m.Options, "nosuid,nodev") || strings.Contains(m.SuperOptions, ",discard") {
				t.Errorf("%+v", m)
			}
			if err := Mount(t.Context(), dev, dir, s); !errors.Is(err, ErrMounted) {
				t.Errorf("second mount: %v", err)
			}
			must(t, MakeData(dir, 70, 71, 0o2750))
			// F26: what a container sees is empty.
			data := filepath.Join(dir, DataDir)
			if entries, err := os.ReadDir(data); err != nil || len(entries) != 0 {
				t.Errorf("%v, %v", entries, err)
			}
			st, err := os.Stat(data)
			must(t, err)
			if o := st.Sys().(*syscall.Stat_t); st.Mode() != os.ModeDir|os.ModeSetgid|0o750 && st.Mode().Perm() != 0o750 || o.Uid != 70 || o.Gid != 71 {
				t.Errorf("%v, %d:%d", st.Mode(), o.Uid, o.Gid)
			}
			must(t, os.WriteFile(filepath.Join(data, "f"), []byte("content"), 0o600))
			if _, err := MakeBare(dir); !errors.Is(err, ErrMounted) { // F21: not the file system itself
				t.Errorf("made bare while mounted: %v", err)
			}
			if err := RemoveBare(dir); !errors.Is(err, ErrBusy) { // F25
				t.Errorf("removed while mounted: %v", err)
			}
			u, err := UsageOf(dir)
			if err != nil || u.Size > 400<<20 || u.Size < 200<<20 || u.Used <= 0 || u.Avail < 100<<20 {
				t.Errorf("%+v, %v", u, err)
			}
			must(t, Unmount(t.Context(), dir))
			if err := Unmount(t.Context(), dir); !errors.Is(err, sys.ErrNotExist) {
				t.Errorf("second unmount: %v", err)
			}
			mountAt(t, dev, dir, s)
			if b, err := os.ReadFile(filepath.Join(data, "f")); err != nil || string(b) != "content" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

// F11, F5: only the file system that was made here is mounted.
func TestMountRefusesAnother(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	dev, dir := loop(t, 400<<20), mountPoint(t)
	s := Spec{Type: XFS, UUID: uuid}
	refused := func(what string, s Spec) {
		t.Helper()
		var m *MismatchError
		if err := Mount(t.Context(), dev, dir, s); !errors.As(err, &m) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused("blank", s)
	must(t, Make(t.Context(), dev, s))
	refused("another UUID", Spec{Type: XFS, UUID: strings.Replace(uuid, "0", "1", 1)})
	refused("another type", Spec{Type: Ext4, UUID: uuid})
	for what, s := range map[string]Spec{
		"option of a file": {Type: XFS, UUID: uuid, Mount: []string{"logdev=/dev/sdb"}},
		"no type":          {UUID: uuid},
	} {
		if err := Mount(t.Context(), dev, dir, s); err == nil {
			t.Errorf("%s: mounted", what)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Mount(ctx, dev, dir, s); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	mountAt(t, dev, dir, s) // the control
}

// F2, F3: what is there is not overwritten, and with Overwrite it is, again and again with the same UUID (btrfs minds).
func TestMakeOverwrites(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	dev := loop(t, 400<<20)
	must(t, Make(t.Context(), dev, Spec{Type: Ext4, UUID: uuid}))
	other := strings.Replace(uuid, "0", "1", 1)
	for _, typ := range Types() {
		var sig *SignatureError
		if err := Make(t.Context(), dev, Spec{Type: typ, UUID: other}); !errors.As(err, &sig) || sig.Found.Type != "ext4" || sig.Found.UUID != uuid {
			t.Errorf("%s: %v", typ, err)
		}
		must(t, checkDevice(dev, Ext4, uuid))
	}
	for _, typ := range []Type{Btrfs, Btrfs, XFS, XFS, Ext4, Btrfs, Ext4, XFS} {
		must(t, Make(t.Context(), dev, Spec{Type: typ, UUID: other, Overwrite: true}))
		sig, err := Probe(t.Context(), dev)
		if err != nil || sig.Type != string(typ) || sig.UUID != other {
			t.Errorf("%s: %+v, %v", typ, sig, err)
		}
	}
}

func TestMakeOnRandom(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	dev := loop(t, 320<<20)
	// What a fresh mapping looks like: noise that happens to look like a partition table.
	if out, err := exec.Command("dd", "if=/dev/urandom", "of="+dev, "bs=1M", "count=8", "oflag=direct", "status=none").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, typ := range Types() {
		must(t, Make(t.Context(), dev, Spec{Type: typ, UUID: uuid, Overwrite: true}))
		dir := mountPoint(t)
		mountAt(t, dev, dir, Spec{Type: typ, UUID: uuid})
		must(t, Unmount(t.Context(), dir))
	}
}

func TestMakeTooSmall(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	for _, typ := range Types() {
		t.Run(string(typ), func(t *testing.T) {
			var size *SizeError
			if err := Make(t.Context(), loop(t, MinSize(typ)-4096), Spec{Type: typ, UUID: uuid}); !errors.As(err, &size) || size.Min != MinSize(typ) {
				t.Error(err)
			}
			dev, dir := loop(t, MinSize(typ)), mountPoint(t)
			must(t, Make(t.Context(), dev, Spec{Type: typ, UUID: uuid}))
			mountAt(t, dev, dir, Spec{Type: typ, UUID: uuid})
		})
	}
}

// F12, and "one bad volume never blocks the others": a device that hangs does not hold up the making, probing, mounting or unmounting of others.
func TestOthersSuspended(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	testenv.DM(t, "hanging", "0 262144 zero")
	testenv.DMSuspend(t, "hanging")
	for _, typ := range Types() {
		dev, dir := loop(t, 320<<20), mountPoint(t)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		must(t, Make(ctx, dev, Spec{Type: typ, UUID: uuid}))
		if _, err := Probe(ctx, dev); err != nil {
			t.Error(err)
		}
		must(t, Mount(ctx, dev, dir, Spec{Type: typ, UUID: uuid}))
		must(t, Unmount(ctx, dir))
	}
}

// While mkfs.btrfs runs in its own mount namespace, the volumes that are mounted outside are not held by it.
func TestHidingHoldsNothing(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	dev, dir := loop(t, 64<<20), mountPoint(t)
	must(t, Make(t.Context(), dev, Spec{Type: Ext4, UUID: uuid}))
	mountAt(t, dev, dir, Spec{Type: Ext4, UUID: uuid})
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	must(t, err)
	must(t, sys.WithHidden([]string{"/proc/partitions", "/sys/block", "/no/such"}, cmd.Start))
	pid := cmd.Process.Pid
	table, err := sys.MountInfoOf(fmt.Sprint(pid))
	must(t, err)
	if slices.ContainsFunc(table, func(m sys.MountInfo) bool { return m.Mountpoint == dir }) {
		t.Error("the child has the mount")
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/proc/partitions", pid)); err != nil || len(b) != 0 {
		t.Errorf("partitions: %d bytes, %v", len(b), err)
	}
	if b, err := os.ReadFile("/proc/partitions"); err != nil || len(b) == 0 {
		t.Errorf("hidden here too: %v", err)
	}
	if entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/sys/block", pid)); err != nil || len(entries) != 0 {
		t.Errorf("block devices: %v, %v", entries, err)
	}
	must(t, Unmount(t.Context(), dir))
	major, minor, err := sys.DevOf(dev)
	must(t, err)
	if h, err := sys.NamespacesWithDevice(major, minor); err != nil || len(h) != 0 {
		t.Errorf("%+v, %v", h, err)
	}
	must(t, in.Close())
	must(t, cmd.Wait())
}

// F45: no discards unless asked for.
func TestMakeDiscards(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	discards := func(dev string) string {
		t.Helper()
		b, err := os.ReadFile("/sys/block/" + filepath.Base(dev) + "/stat")
		must(t, err)
		return strings.Fields(string(b))[11]
	}
	for _, typ := range Types() {
		for _, discard := range []bool{false, true} {
			dev, dir := loop(t, 320<<20), mountPoint(t)
			before := discards(dev)
			s := Spec{Type: typ, UUID: uuid, Discard: discard, Overwrite: true}
			must(t, Make(t.Context(), dev, s))
			if after := discards(dev); (after != before) != (discard && typ != Btrfs) {
				t.Errorf("%s, discard=%t: %s discards, then %s", typ, discard, before, after)
			}
			mountAt(t, dev, dir, s)
			if m := infoOf(t, dir); strings.Contains(","+m.SuperOptions, ",discard") != discard {
				t.Errorf("%s, discard=%t: %s", typ, discard, m.SuperOptions)
			}
			must(t, Unmount(t.Context(), dir))
		}
	}
}

func TestExt4AlwaysGoesReadOnlyOnErrors(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	dev := loop(t, 64<<20)
	must(t, Make(t.Context(), dev, Spec{Type: Ext4, UUID: uuid}))
	// For those who mount it by hand.
	out, err := exec.Command("dumpe2fs", "-h", dev).Output()
	if err != nil || !strings.Contains(string(out), "Remount read-only") {
		t.Errorf("%v: %s", err, out)
	}
	// And whatever the superblock says by now.
	if out, err := exec.Command("tune2fs", "-e", "continue", dev).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	dir := mountPoint(t)
	mountAt(t, dev, dir, Spec{Type: Ext4, UUID: uuid})
	if m := infoOf(t, dir); !strings.Contains(m.SuperOptions, "errors=remount-ro") {
		t.Error(m.SuperOptions)
	}
}

// A device that fails is neither blank nor made into anything.
func TestBrokenDevice(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	const sectors = "819200" // 400 MiB
	dev := testenv.DM(t, "broken", "0 "+sectors+" error")
	if sig, err := Probe(t.Context(), dev); err == nil {
		t.Errorf("%+v", sig)
	}
	for _, typ := range Types() {
		for _, overwrite := range []bool{false, true} {
			if err := Make(t.Context(), dev, Spec{Type: typ, UUID: uuid, Overwrite: overwrite}); err == nil {
				t.Errorf("made %s", typ)
			}
		}
		if err := Mount(t.Context(), dev, mountPoint(t), Spec{Type: typ, UUID: uuid}); err == nil {
			t.Errorf("mounted %s", typ)
		}
	}
	// F1: reads zeros. Mounting fails, and does not make anything.
	testenv.DMReload(t, "broken", "0 "+sectors+" zero")
	var m *MismatchError
	if err := Mount(t.Context(), dev, mountPoint(t), Spec{Type: Ext4, UUID: uuid}); !errors.As(err, &m) {
		t.Error(err)
	}
	// Writes vanish: mkfs is content, Make is not.
	for _, typ := range Types() {
		if err := Make(t.Context(), dev, Spec{Type: typ, UUID: uuid}); err == nil {
			t.Errorf("made %s on a device that forgets", typ)
		}
	}
}

// A lock that mkfs inherits is held until it has ended.
func TestMkfsHoldsLocks(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	must(t, os.Mkdir(bin, 0o755))
	must(t, os.WriteFile(filepath.Join(bin, "mkfs.ext4"), []byte("#!/bin/sh\nreadlink /proc/self/fd/3 >"+dir+"/out; read x; echo input:$x >>"+dir+"/out; env >>"+dir+"/out; exit 7\n"), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("VOLUKS_CANARY", "canary")
	lock, err := os.Create(filepath.Join(dir, "lock"))
	must(t, err)
	defer lock.Close()
	dev := loop(t, 64<<20)
	err = Make(t.Context(), dev, Spec{Type: Ext4, UUID: uuid}, lock)
	if err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Error(err)
	}
	out, err := os.ReadFile(filepath.Join(dir, "out"))
	must(t, err)
	if !strings.HasPrefix(string(out), lock.Name()+"\ninput:\n") || !strings.Contains(string(out), "LC_ALL=C") || strings.Contains(string(out), "canary") {
		t.Errorf("the child saw %s", out)
	}
}

// F13: a deadline ends mkfs, and nothing of it stays.
func TestMkfsDeadline(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	bin := t.TempDir()
	must(t, os.WriteFile(filepath.Join(bin, "mkfs.ext4"), []byte("#!/bin/sh\nexec sleep 1000\n"), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	start := time.Now()
	if err := Make(ctx, loop(t, 64<<20), Spec{Type: Ext4, UUID: uuid, Overwrite: true}); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 10*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func TestUnmountNamesUsers(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	dev, dir := loop(t, 64<<20), mountPoint(t)
	s := Spec{Type: Ext4, UUID: uuid}
	must(t, Make(t.Context(), dev, s))
	mountAt(t, dev, dir, s)
	f, err := os.Create(filepath.Join(dir, "f"))
	must(t, err)
	cmd := exec.Command("cat")
	cmd.Dir = dir
	in, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	err = Unmount(t.Context(), dir)
	var busy *BusyError
	if !errors.As(err, &busy) || !errors.Is(err, ErrBusy) || !errors.Is(err, syscall.EBUSY) {
		t.Fatal(err)
	}
	hows := map[int]string{}
	for _, u := range busy.Users {
		hows[u.PID] = u.How
	}
	if len(hows) != 2 || hows[os.Getpid()] != "open file" || hows[cmd.Process.Pid] != "working directory" {
		t.Errorf("%v", err)
	}
	if !strings.Contains(err.Error(), fmt.Sprintf("process %d (cat, working directory)", cmd.Process.Pid)) {
		t.Error(err)
	}
	must(t, f.Close())
	// A user who leaves within the wait does not make it fail.
	time.AfterFunc(100*time.Millisecond, func() { in.Close() })
	must(t, Unmount(t.Context(), dir))
	must(t, cmd.Wait())
}

// The lists are true: what they allow, the kernel takes.
func TestKernelTakesMountOptions(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	for _, typ := range Types() {
		t.Run(string(typ), func(t *testing.T) {
			dev, dir := loop(t, 320<<20), mountPoint(t)
			s := Spec{Type: typ, UUID: uuid}
			if typ == Ext4 {
				s.Mkfs = []string{"-O", "quota,project"} // for prjquota
			}
			must(t, Make(t.Context(), dev, s))
			options := slices.Sorted(maps.Keys(mountFlags))
			for _, name := range slices.Sorted(maps.Keys(mountTables[typ])) {
				v := mountTables[typ][name]
				if v.none {
					options = append(options, name)
				}
				if len(v.words) > 0 || v.max > 0 {
					options = append(options, fit(name+"="+v.example()))
				}
			}
			// Several at a time: a mount takes a tenth of a second here.
			for some := range slices.Chunk(options, 8) {
				var err error
				s.Mount, err = ParseMount(typ, strings.Join(some, ","))
				must(t, err)
				if err := Mount(t.Context(), dev, dir, s); err != nil {
					t.Errorf("%q: %v", some, err)
					continue
				}
				must(t, Unmount(t.Context(), dir))
			}
		})
	}
}

// fit replaces an example that does not suit its option.
func fit(o string) string {
	switch o {
	case "data=journal": // not together with delalloc
		return "data=ordered"
	case "journal_ioprio=16":
		return "journal_ioprio=3"
	case "logbufs=16":
		return "logbufs=8"
	case "allocsize=65536":
		return "allocsize=64k"
	}
	return o
}

func BenchmarkMake(b *testing.B) {
	testenv.Guest(b)
	for _, typ := range Types() {
		b.Run(string(typ), func(b *testing.B) {
			dev := loop(b, 10<<30)
			for b.Loop() {
				must(b, Make(b.Context(), dev, Spec{Type: typ, UUID: uuid, Overwrite: true}))
			}
		})
	}
}

func BenchmarkMountUnmount(b *testing.B) {
	testenv.Guest(b)
	dev, dir := loop(b, 1<<30), mountPoint(b)
	s := Spec{Type: Ext4, UUID: uuid}
	must(b, Make(b.Context(), dev, s))
	for b.Loop() {
		must(b, Mount(b.Context(), dev, dir, s))
		must(b, Unmount(b.Context(), dir))
	}
}
