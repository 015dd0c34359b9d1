// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestMemfd(t *testing.T) {
	f, err := Memfd("header", []byte("content"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(f); err != nil || string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("it can be changed")
	}
	if err := f.Truncate(0); err == nil {
		t.Error("it can be cut")
	}
}

// The holes of a sparse one read as zeros, and take no memory.
func TestSparseMemfd(t *testing.T) {
	const size = 16 << 20
	f, err := SparseMemfd("header", size, map[int64][]byte{0: []byte("start"), 12 << 20: []byte("middle")})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := make([]byte, size)
	copy(want, "start")
	copy(want[12<<20:], "middle")
	if b, err := io.ReadAll(f); err != nil || !bytes.Equal(b, want) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil || st.Blocks*512 > 1<<20 {
		t.Errorf("%d blocks, %v", st.Blocks, err)
	}
	if _, err := f.WriteAt([]byte("x"), 1<<20); err == nil {
		t.Error("it can be changed")
	}
}

func TestFallocate(t *testing.T) {
	f := openFile(t, filepath.Join(t.TempDir(), "f"))
	const size = 3<<20 + 4096
	if err := Fallocate(f, size); err != nil {
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skipf("the temporary directory cannot do it: %v", err)
		}
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if blocks := st.Sys().(*syscall.Stat_t).Blocks; st.Size() != size || blocks*512 < size {
		t.Errorf("size %d, %d blocks of 512", st.Size(), blocks)
	}
	if err := Fallocate(f, 1<<62); err == nil {
		t.Error("reserved 4 EiB")
	}
}

func TestUnsupportedFlagsSaySo(t *testing.T) {
	// No file system but btrfs has it; the test directory of a developer may be on btrfs, where it works.
	f := openFile(t, filepath.Join(t.TempDir(), "f"))
	fs, err := Statfs(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if err := SetNoCOW(f); (fs.Type == MagicBtrfs) != (err == nil) || (err != nil && !errors.Is(err, errors.ErrUnsupported)) {
		t.Errorf("on %#x: %v", fs.Type, err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(f.Name(), link); err != nil {
		t.Fatal(err)
	}
	if err := SetImmutable(link, true); err == nil {
		t.Error("followed a link")
	}
}

func TestOpenRegular(t *testing.T) {
	dir := t.TempDir()
	file, link, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "link"), filepath.Join(dir, "pipe")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, write := range []bool{false, true} {
		f, err := OpenRegular(file, write)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("y"), 0); (err == nil) != write {
			t.Errorf("write with write=%t: %v", write, err)
		}
		f.Close()
		for _, p := range []string{link, pipe, dir, "/dev/null"} {
			if f, err := OpenRegular(p, write); !errors.Is(err, ErrNotRegular) {
				t.Errorf("%s, write=%t: %v, %v", p, write, f, err)
			}
		}
	}
	if _, err := OpenRegular(filepath.Join(dir, "none"), false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestDirectReadsAnyRange(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	content := bytes.Repeat([]byte("0123456789abcdefghijklmnopqrstuvwxyz-"), 1<<16) // 2.3 MiB, not a multiple of anything
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, r := range [][2]int{{0, 1}, {0, 4096}, {1, 4096}, {4095, 2}, {0, len(content)}, {1 << 20, 1<<20 + 5}, {len(content) - 3, 3}, {12345, 0}} {
		b, err := ReadDirect(path, int64(r[0]), r[1])
		if err != nil || !bytes.Equal(b, content[r[0]:r[0]+r[1]]) {
			t.Errorf("read %v: %d bytes, %v", r, len(b), err)
		}
	}
	for _, r := range [][2]int{{len(content) - 3, 4}, {len(content), 1}, {len(content) + 1<<20, 1}, {-1, 1}} {
		if b, err := ReadDirect(path, int64(r[0]), r[1]); err == nil {
			t.Errorf("read %v: %d bytes", r, len(b))
		}
	}
	if _, err := ReadDirect(path, int64(len(content)), 1); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("read at the end: %v", err)
	}
	if _, err := ReadDirect("/dev/null", 0, 1); err == nil {
		t.Error("read a character device")
	}
}

// A file that is cut while it is read must be an error, not a shorter answer.
func TestDirectShortRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := OpenDirect(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := os.Truncate(path, 8192); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<20)
	if n, err := d.ReadAt(b, 0); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestDirectWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, make([]byte, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := OpenDirect(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b := bytes.Repeat([]byte("x"), 2<<20)
	if _, err := d.WriteAt(b, 4096); err != nil {
		t.Fatal(err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]int{{1, 4096}, {0, 100}, {-4096, 4096}} {
		if _, err := d.WriteAt(make([]byte, c[1]), int64(c[0])); err == nil {
			t.Errorf("wrote %v", c)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := append(append(make([]byte, 4096), b...), make([]byte, 1<<20-4096)...)
	if !bytes.Equal(got, want) {
		t.Error("the content is not what was written")
	}
}

// F41: neither this process nor its children write a core dump.
func TestHarden(t *testing.T) {
	if os.Getenv("VOLUKS_TEST_HARDEN") != "" {
		if err := Harden(); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("sh", "-c", "ulimit -c; ulimit -Hc").Output()
		if err != nil || strings.TrimSpace(string(out)) != "0\n0" {
			t.Errorf("the child may dump %q, %v", out, err)
		}
		b, err := os.ReadFile("/proc/self/stat")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := parseStat(b); err != nil {
			t.Error(err)
		}
		if d, err := dumpable(); err != nil || d != 0 {
			t.Errorf("dumpable %d, %v", d, err)
		}
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestHarden$")
	cmd.Env = append(os.Environ(), "VOLUKS_TEST_HARDEN=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
