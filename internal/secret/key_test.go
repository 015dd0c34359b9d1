// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
)

func TestMain(m *testing.M) {
	if want := os.Getenv("VOLUKS_TEST_MEMLOCK"); want != "" {
		limited()
		return
	}
	testenv.Main(m)
}

const sample = "0123456789abcdefFEDCBA9876543210"

func key(t testing.TB, s string) *Key {
	t.Helper()
	k, err := Move([]byte(s))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Wipe)
	return k
}

func TestMoveZeroesItsSource(t *testing.T) {
	src := []byte(sample)
	k, err := Move(src)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Wipe()
	if string(k.Bytes()) != sample || k.Len() != len(sample) {
		t.Errorf("key holds %q", k.Bytes())
	}
	if !bytes.Equal(src, make([]byte, len(src))) {
		t.Errorf("source still holds %q", src)
	}
	// An empty key is an error, and so is nothing at all.
	if _, err := Move(nil); err == nil {
		t.Error("made an empty key")
	}
}

func TestRead(t *testing.T) {
	for _, c := range []struct {
		name string
		r    io.Reader
		want string // part of the error
	}{
		{"exact", strings.NewReader(sample), ""},
		{"in pieces", iotest.OneByteReader(strings.NewReader(sample)), ""},
		{"data with EOF", iotest.DataErrReader(strings.NewReader(sample)), ""},
		{"empty", strings.NewReader(""), "0 bytes instead of 32"},
		{"short", strings.NewReader(sample[1:]), "31 bytes instead of 32"},
		{"long", strings.NewReader(sample + "\n"), "more than 32"},
		{"broken", iotest.ErrReader(errors.New("boom")), "boom"},
		{"broken at the end", io.MultiReader(strings.NewReader(sample), iotest.ErrReader(errors.New("boom"))), "boom"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k, err := Read(c.r, 32)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				defer k.Wipe()
				if string(k.Bytes()) != sample {
					t.Errorf("read %q", k.Bytes())
				}
				return
			}
			if k != nil || err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), sample[:8]) {
				t.Errorf("key %v, error %v; want an error with %q", k, err, c.want)
			}
			if errors.Is(err, ErrLength) == (c.want == "boom") {
				t.Errorf("ErrLength: %v", err)
			}
		})
	}
}

func TestRandomAndClone(t *testing.T) {
	a, err := Random(32)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Wipe()
	b, err := Random(32)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Wipe()
	zero, err := New(32)
	if err != nil {
		t.Fatal(err)
	}
	defer zero.Wipe()
	if a.Equal(b) || a.Equal(zero) || b.Equal(zero) {
		t.Error("two of three keys are equal")
	}
	c, err := a.Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Wipe()
	if !c.Equal(a) {
		t.Error("the copy differs")
	}
	c.Bytes()[31] ^= 1
	if c.Equal(a) {
		t.Error("the copy is the same memory, or Equal leaves the last byte out")
	}
	if a.Equal(nil) || (*Key)(nil).Equal(a) || a.Equal(key(t, "short")) {
		t.Error("equals nil or a shorter key")
	}
}

func TestWipe(t *testing.T) {
	k, err := Move([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	where := address(k.Bytes())
	if !mapped(t, where) {
		t.Fatalf("%#x is not in the process's memory map: the test looks at the wrong place", where)
	}
	k.Wipe()
	k.Wipe()
	if mapped(t, where) {
		t.Error("the memory is still mapped")
	}
	if k.Len() != 0 || k.Equal(k) {
		t.Error("a wiped key has a length or equals something")
	}
	if _, err := k.Clone(); !errors.Is(err, ErrWiped) {
		t.Errorf("copy of a wiped key: %v", err)
	}
	mustPanic(t, func() { k.Bytes() })
	mustPanic(t, func() { new(Key).Bytes() })
	(*Key)(nil).Wipe()
	new(Key).Wipe()
}

func mustPanic(t *testing.T, f func()) {
	t.Helper()
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	f()
}

// The net: a key that was forgotten is freed when it is unreachable, and one that is in use is not.
func TestForgottenKeyIsFreed(t *testing.T) {
	kept := key(t, sample)
	where := func() uintptr {
		k, err := Move([]byte(sample))
		if err != nil {
			t.Fatal(err)
		}
		return address(k.Bytes())
	}()
	for end := time.Now().Add(5 * time.Second); mapped(t, where); {
		if time.Now().After(end) {
			t.Fatal("a forgotten key stays in memory")
		}
		runtime.GC()
	}
	if string(kept.Bytes()) != sample {
		t.Error("a key in use was wiped")
	}
	runtime.KeepAlive(kept)
}

// F41: no swap, no core dump, nothing in children.
func TestMemoryIsProtected(t *testing.T) {
	k := key(t, sample)
	flags := vmFlags(t, address(k.Bytes()))
	for _, want := range []string{"lo", "dd", "wf"} { // locked, do not dump, wipe on fork
		if !strings.Contains(flags, " "+want+" ") {
			t.Errorf("flag %q is missing in %q", want, flags)
		}
	}
}

// Where memory may not be locked, making a key fails with an error that says how to get out of it.
func TestMemlockLimit(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "VOLUKS_TEST_MEMLOCK=1", "GOCOVERDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"is ErrMemlock: true", "LimitMEMLOCK", "ulimit -l"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing in: %s", want, out)
		}
	}
}

// limited runs in a process of its own: without privileges and with a limit of one page.
func limited() {
	const rlimitMemlock = 8 // of asm-generic/resource.h
	page := uint64(os.Getpagesize())
	check(syscall.Setrlimit(rlimitMemlock, &syscall.Rlimit{Cur: page, Max: page}))
	if os.Getuid() == 0 {
		check(syscall.Setresuid(65534, 65534, 65534)) // root may lock what it wants
	}
	k, err := Random(32)
	check(err)
	_, err = Random(32)
	fmt.Println("is ErrMemlock:", errors.Is(err, sys.ErrMemlock), err)
	k.Wipe()
	// What the first one had is free again.
	k, err = Random(32)
	check(err)
	k.Wipe()
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func TestStaleSliceFaults(t *testing.T) {
	k, err := Move([]byte(sample))
	if err != nil {
		t.Fatal(err)
	}
	stale := k.Bytes()
	k.Wipe()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	mustPanic(t, func() { t.Logf("%d", stale[0]) })
}

func BenchmarkKey(b *testing.B) {
	for b.Loop() {
		k, err := Random(32)
		if err != nil {
			b.Fatal(err)
		}
		k.Wipe()
	}
}
