// SPDX-License-Identifier: Apache-2.0

package backing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const size = HeaderSize + 16<<20

// made returns a new sparse image.
func made(t testing.TB, dir string) *Image {
	t.Helper()
	i := At(filepath.Join(dir, "image"))
	must(t, i.Create(t.Context(), size, Sparse))
	return i
}

// F8: the header is not taken out of what was asked for.
func TestImageSize(t *testing.T) {
	for fs, want := range map[int64]int64{1: HeaderSize + 4096, 4096: HeaderSize + 4096, 4097: HeaderSize + 8192, 10 << 30: 10<<30 + 16<<20} {
		if got, err := ImageSize(fs); err != nil || got != want {
			t.Errorf("%d: %d, %v", fs, got, err)
		}
	}
	for _, fs := range []int64{0, -1, math.MinInt64, math.MaxInt64, math.MaxInt64 - HeaderSize} {
		if got, err := ImageSize(fs); err == nil {
			t.Errorf("%d: %d", fs, got)
		}
	}
}

func TestCreate(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o777))
	for _, a := range []Alloc{Sparse, Full} {
		t.Run(string(a), func(t *testing.T) {
			i := At(filepath.Join(t.TempDir(), "image"))
			if err := i.Create(t.Context(), size, a); err != nil {
				if errors.Is(err, errors.ErrUnsupported) {
					testenv.Missing(t, "fallocate", err.Error())
				}
				t.Fatal(err)
			}
			st, err := os.Stat(i.Path())
			must(t, err)
			if st.Size() != size || st.Mode() != 0o600 {
				t.Errorf("size %d, mode %v", st.Size(), st.Mode())
			}
			if blocks := st.Sys().(*syscall.Stat_t).Blocks * 512; (blocks >= size) != (a == Full) {
				t.Errorf("%d bytes are allocated", blocks)
			}
			must(t, ProbeBlank(t.Context(), i.Path()))
			must(t, os.WriteFile(i.Path(), []byte("content"), 0))
			if err := i.Create(t.Context(), size, a); !errors.Is(err, os.ErrExist) {
				t.Errorf("second create: %v", err)
			}
			if b, err := os.ReadFile(i.Path()); err != nil || string(b) != "content" {
				t.Errorf("the second create left %q, %v", b, err)
			}
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	i := At(filepath.Join(dir, "image"))
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, create := range map[string]func() error{
		"size 0":        func() error { return i.Create(t.Context(), 0, Full) },
		"negative":      func() error { return i.Create(t.Context(), -size, Full) },
		"header only":   func() error { return i.Create(t.Context(), HeaderSize, Full) },
		"odd size":      func() error { return i.Create(t.Context(), size+512, Full) },
		"no allocation": func() error { return i.Create(t.Context(), size, "") },
		"cancelled":     func() error { return i.Create(cancelled, size, Full) },
		"no directory":  func() error { return At(filepath.Join(dir, "a/b")).Create(t.Context(), size, Sparse) },
		"name too long": func() error {
			return At(filepath.Join(dir, strings.Repeat("x", 300))).Create(t.Context(), size, Sparse)
		},
		"dangling link":  func() error { return At(link(t, dir, "nowhere")).Create(t.Context(), size, Sparse) },
		"a device there": func() error { return At("/dev/null").Create(t.Context(), size, Sparse) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := create(); err == nil {
				t.Error("created")
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 1 || len(left) == 1 && filepath.Base(left[0]) != "link" {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func link(t *testing.T, dir, to string) string {
	t.Helper()
	path := filepath.Join(dir, "link")
	if err := os.Symlink(to, path); err != nil && !errors.Is(err, os.ErrExist) {
		t.Fatal(err)
	}
	return path
}

func TestReserve(t *testing.T) {
	dir := t.TempDir()
	must(t, Reserve(t.Context(), dir, 1))
	st, err := sys.Statfs(dir)
	must(t, err)
	err = Reserve(t.Context(), dir, st.Size+1)
	var space *NoSpaceError
	if !errors.As(err, &space) || space.Path != dir || space.Need != st.Size+1 || space.Avail <= 0 || space.Avail > st.Size {
		t.Errorf("%v, %+v", err, space)
	}
	if err := Reserve(t.Context(), filepath.Join(dir, "none"), 1); err == nil || errors.As(err, &space) {
		t.Errorf("no such directory: %v", err)
	}
	for e, want := range map[*NoSpaceError]string{
		{Path: "/d", Need: 20 << 30, Avail: 15 << 20}: "no space in /d: 20.0 GiB needed, 15.0 MiB available",
		{Path: "/d", Need: 4096, Avail: 0}:            "no space in /d: 4096 bytes needed, 0 bytes available",
		{Path: "/d", Need: 4096, Inodes: true}:        "no space in /d: it has no free inode",
	} {
		if e.Error() != want {
			t.Errorf("%q", e.Error())
		}
	}
}

// F3: anything that is not zero is content, wherever it is.
func TestProbeBlankFindsData(t *testing.T) {
	const large = HeaderSize + 200<<20
	path := filepath.Join(t.TempDir(), "f")
	ranges := blankRanges(large)
	spots := []int64{0, 511, 4096, HeaderSize - 1, large - 1<<20, large - 1, ranges[1][0], ranges[1][1] - 1, ranges[32][0] + 7, ranges[64][1] - 1}
	for _, at := range spots {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			f, err := os.Create(path)
			must(t, err)
			defer f.Close()
			must(t, f.Truncate(large))
			must(t, ProbeBlank(t.Context(), path))
			_, err = f.WriteAt([]byte{1}, at)
			must(t, err)
			err = ProbeBlank(t.Context(), path)
			var n *NotBlankError
			if !errors.As(err, &n) || n.Offset != at || n.Path != path {
				t.Errorf("%v, %+v", err, n)
			}
		})
	}
}

func TestBlankRanges(t *testing.T) {
	for _, size := range []int64{1, 4096, HeaderSize, HeaderSize + 1<<20, HeaderSize + 5<<20, HeaderSize + 5<<20 + 4096, 1 << 30, 1<<30 + 512, 20 << 40} {
		var end, sum int64
		for _, r := range blankRanges(size) {
			if r[0] < end || r[1] <= r[0] || r[1] > size {
				t.Errorf("size %d: %v after %d", size, r, end)
			}
			end = r[1]
			sum += r[1] - r[0]
		}
		if end != size || sum > HeaderSize+blankTail+blankSamples*blankSample {
			t.Errorf("size %d: reads %d bytes up to %d", size, sum, end)
		}
	}
}

// F3, F6: what other tools have left is recognised and named.
func TestProbeBlankNamesWhatIsThere(t *testing.T) {
	const large = 320 << 20
	key := filepath.Join(t.TempDir(), "key")
	must(t, os.WriteFile(key, []byte("not so secret"), 0o600))
	run := func(args ...string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			t.Helper()
			if out, err := exec.Command(args[0], append(args[1:], path)...).CombinedOutput(); err != nil {
				if errors.Is(err, exec.ErrNotFound) {
					testenv.Missing(t, "tools", err.Error())
				}
				t.Fatalf("%v: %v: %s", args, err, out)
			}
		}
	}
	luks := run("cryptsetup", "-q", "luksFormat", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", key)
	unhead := func(t *testing.T, path string) { writeAt(t, path, make([]byte, 16384), 0) }
	for _, c := range []struct {
		name  string
		want  string
		steps []func(*testing.T, string)
	}{
		{"ext4", "ext4", []func(*testing.T, string){run("mkfs.ext4", "-q")}},
		{"xfs", "xfs", []func(*testing.T, string){run("mkfs.xfs", "-q")}},
		{"btrfs", "btrfs", []func(*testing.T, string){run("mkfs.btrfs", "-q")}},
		{"swap", "swap", []func(*testing.T, string){run("mkswap", "-q")}},
		{"partition table", "dos partition table", []func(*testing.T, string){func(t *testing.T, p string) { mbr(t, p, 0x83, large/512) }}},
		{"guid partition table", "gpt partition table", []func(*testing.T, string){func(t *testing.T, p string) { gpt(t, p, large/512) }}},
		{"luks", "crypto_LUKS", []func(*testing.T, string){luks}},
		// The table destroys the first header; the second, at 16 KiB, still opens the volume.
		{"luks clobbered by a partition tool", "", []func(*testing.T, string){luks, unhead, func(t *testing.T, p string) { gpt(t, p, large/512) }}},
		{"luks without its first header", "", []func(*testing.T, string){luks, unhead}},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "f")
			must(t, os.WriteFile(path, nil, 0o600))
			must(t, os.Truncate(path, large))
			for _, step := range c.steps {
				step(t, path)
			}
			err := ProbeBlank(t.Context(), path)
			if err == nil {
				t.Fatal("blank")
			}
			var n *NotBlankError
			if c.want != "" && (!errors.As(err, &n) || n.What != c.want) {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
}

// F2: a blkid that cannot do its work must not look like one that found nothing.
func TestProbeBlankWithBrokenBlkid(t *testing.T) {
	image := made(t, t.TempDir()).Path()
	for name, c := range map[string]struct {
		script string
		blank  bool
	}{
		"nothing found":          {"exit 2", true},
		"other error":            {"exit 4", false},
		"ambivalent":             {"exit 8", false},
		"status 1":               {"exit 1", false},
		"status 0 and silence":   {"exit 0", false},
		"killed":                 {"kill -9 $$", false},
		"killed with a core":     {"kill -6 $$", false},
		"finds ext4":             {"echo TYPE=ext4", false},
		"finds a partition":      {"echo PTTYPE=dos", false},
		"not a program":          {"", false},
		"cannot run (bad shell)": {"#!/nonexistent", false},
	} {
		t.Run(name, func(t *testing.T) {
			bin := t.TempDir()
			script := "#!/bin/sh\n" + c.script + "\n"
			if !strings.HasPrefix(c.script, "exit") && !strings.HasPrefix(c.script, "kill") && !strings.HasPrefix(c.script, "echo") {
				script = c.script
			}
			must(t, os.WriteFile(filepath.Join(bin, "blkid"), []byte(script), 0o755))
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			if err := ProbeBlank(t.Context(), image); (err == nil) != c.blank {
				t.Error(err)
			}
		})
	}
}

func TestProbeBlankRefuses(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	must(t, os.WriteFile(empty, nil, 0o600))
	for _, path := range []string{empty, dir, "/dev/null", "/dev/zero", filepath.Join(dir, "none"), link(t, dir, "empty")} {
		err := ProbeBlank(t.Context(), path)
		var n *NotBlankError
		if err == nil || errors.As(err, &n) {
			t.Errorf("%s: %v", path, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := ProbeBlank(ctx, made(t, dir).Path()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestRemove(t *testing.T) {
	i := made(t, t.TempDir())
	f, err := os.Open(i.Path())
	must(t, err)
	must(t, sys.TryLock(f))
	if err := i.Remove(); !errors.Is(err, ErrInUse) {
		t.Errorf("locked: %v", err)
	}
	must(t, f.Close())
	must(t, i.Remove())
	must(t, i.Remove())
	if _, err := os.Stat(i.Path()); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	// F25: never anything but the file itself.
	dir := t.TempDir()
	for _, p := range []string{dir, link(t, dir, i.Path())} {
		if err := At(p).Remove(); err == nil {
			t.Errorf("removed %s", p)
		}
	}
}

func TestAttachRefuses(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int64{"zeroed": 0, "cut": size - 1, "cut in the header": HeaderSize} {
		path := filepath.Join(dir, "image")
		must(t, os.WriteFile(path, nil, 0o600))
		must(t, os.Truncate(path, size))
		if a, err := At(path).Attach(t.Context()); err == nil {
			a.Close()
			t.Errorf("%s: attached", name)
		}
	}
	if _, err := At(filepath.Join(dir, "none")).Attach(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
	if _, err := At("/dev/zero").Attach(t.Context()); !errors.Is(err, sys.ErrNotRegular) {
		t.Errorf("device: %v", err)
	}
}

// F11, F46: when a device is taken for the one that a volume was made on.
func TestSame(t *testing.T) {
	disk := sys.BlockID{Serial: "S", WWN: "naa.1", Size: 1 << 30, Block: 512}
	part := sys.BlockID{Serial: "S", Partition: 1, Start: 1 << 20, Size: 1 << 29, Block: 512}
	bare := sys.BlockID{Size: 1 << 30, Block: 4096}
	change := func(id sys.BlockID, f func(*sys.BlockID)) sys.BlockID { f(&id); return id }
	for name, c := range map[string]struct {
		then, now sys.BlockID
		same      bool
	}{
		"unchanged":          {disk, disk, true},
		"enlarged":           {disk, change(disk, func(id *sys.BlockID) { id.Size *= 2 }), true},
		"smaller blocks":     {bare, change(bare, func(id *sys.BlockID) { id.Block = 512 }), true},
		"larger blocks":      {disk, change(disk, func(id *sys.BlockID) { id.Block = 4096 }), false},
		"another serial":     {disk, change(disk, func(id *sys.BlockID) { id.Serial = "T" }), false},
		"another WWN":        {disk, change(disk, func(id *sys.BlockID) { id.WWN = "naa.2" }), false},
		"no serial any more": {disk, change(disk, func(id *sys.BlockID) { id.Serial = "" }), false},
		"a serial now":       {bare, change(bare, func(id *sys.BlockID) { id.Serial = "S" }), false},
		"bare and enlarged":  {bare, change(bare, func(id *sys.BlockID) { id.Size *= 2 }), false},
		"another partition":  {part, change(part, func(id *sys.BlockID) { id.Partition = 2 }), false},
		"a moved partition":  {part, change(part, func(id *sys.BlockID) { id.Start *= 2 }), false},
		"the whole disk":     {part, disk, false},
		"another mapping":    {sys.BlockID{DM: "a", Block: 512}, sys.BlockID{DM: "b", Block: 512}, false},
	} {
		err := same(c.now, c.then)
		var other *OtherError
		if (err == nil) != c.same || err != nil && !errors.As(err, &other) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// F6: what is wiped is nothing to anybody: neither header of LUKS, nor a partition table at either end, nor a label in the last bytes of a partition that
// ends anywhere.
func TestWipe(t *testing.T) {
	const size = HeaderSize + 70<<20 + 512
	path := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, size))
	gpt(t, path, size/512)
	for _, at := range []int64{16 << 10, 4 << 20, HeaderSize - 512, 64<<20 + 64, size - 1<<20, size - 1} {
		writeAt(t, path, []byte("LUKS"[:min(4, size-at)]), at)
	}
	kept := []byte("data in the middle")
	writeAt(t, path, kept, HeaderSize+20<<20)
	for range 2 {
		must(t, Wipe(t.Context(), path))
	}
	b, err := os.ReadFile(path)
	must(t, err)
	if i := bytes.Index(b, kept); i != HeaderSize+20<<20 {
		t.Errorf("what nobody recognises was wiped too: %d", i)
	}
	clear(b[HeaderSize+20<<20:][:len(kept)])
	if i := bytes.IndexFunc(b, func(r rune) bool { return r != 0 }); i >= 0 {
		t.Errorf("left at %d", i)
	}
}

func TestLVMNames(t *testing.T) {
	for _, name := range []string{"vg0", "a", "my-vg", "x.y_z+1"} {
		if err := CheckLVMName(name); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"", "-a", "--help", "a/b", ".", "..", "a b", "a\nb", strings.Repeat("a", 128)} {
		if CheckLVMName(name) == nil {
			t.Errorf("%q passes", name)
		}
	}
	if got := LVAt("my-vg", "", "1-2").mapper("voluks-1-2"); got != "my--vg-voluks--1--2" {
		t.Error(got)
	}
}
