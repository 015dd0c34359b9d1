// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// recorder is a testing.TB that notes what would have become of the test.
type recorder struct {
	testing.TB
	skipped, failed bool
	said            string
	cleanups        []func()
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Skip(a ...any)    { r.skipped = true; r.said += fmt.Sprint(a...); panic(r) }
func (r *recorder) Errorf(f string, a ...any) {
	r.failed = true
	r.said += fmt.Sprintf(f, a...)
}
func (r *recorder) Fatalf(f string, a ...any) { r.Errorf(f, a...); panic(r) }
func (r *recorder) Fatal(a ...any)            { r.Fatalf("%s", fmt.Sprint(a...)) }

// run runs a test function against a recorder, with its clean-ups.
func run(f func(testing.TB)) *recorder {
	r := &recorder{}
	func() {
		defer func() {
			if p := recover(); p != nil && p != any(r) {
				panic(p)
			}
		}()
		f(r)
	}()
	for i := len(r.cleanups) - 1; i >= 0; i-- {
		r.cleanups[i]()
	}
	return r
}

// A skip happens only where the runner did not ask for the feature.
func TestSkipCannotLie(t *testing.T) {
	t.Setenv(VarGuest, "")
	for _, c := range []struct {
		require string
		fails   bool
	}{{"", false}, {"disks", false}, {"guests", false}, {"guest", true}, {"tpm,guest", true}, {"tpm, guest", true}} {
		t.Setenv(VarRequire, c.require)
		r := run(func(t testing.TB) { Guest(t) })
		if r.failed != c.fails || r.skipped == c.fails || r.said == "" {
			t.Errorf("require %q: failed %t, skipped %t, said %q", c.require, r.failed, r.skipped, r.said)
		}
	}
}

func TestDiskCannotLie(t *testing.T) {
	if _, err := os.Stat("/dev/mapper/control"); err != nil {
		t.Setenv(VarGuest, "small")
		if r := run(func(t testing.TB) { Guest(t) }); !r.failed {
			t.Errorf("a guest without device-mapper: %+v", r)
		}
		return
	}
	t.Setenv(VarGuest, "small")
	t.Setenv(VarDevices, "")
	t.Setenv(VarRequire, "")
	if r := run(func(t testing.TB) { Disk(t, 0, 1) }); !r.skipped {
		t.Errorf("no disk: %+v", r)
	}
	t.Setenv(VarRequire, "disks")
	if r := run(func(t testing.TB) { Disk(t, 0, 1) }); !r.failed {
		t.Errorf("no disk, but required: %+v", r)
	}
}

// The leak check finds each kind of leftover, and nothing where there is none.
func TestLeakCheck(t *testing.T) {
	stop := make(chan struct{})
	var f *os.File
	for name, c := range map[string]struct {
		leak func()
		want string
	}{
		"nothing":   {func() {}, ""},
		"file":      {func() { f, _ = os.Open("/proc/self/stat") }, "/stat"},
		"goroutine": {func() { go func() { <-stop }() }, "goroutine"},
	} {
		t.Run(name, func(t *testing.T) {
			r := run(func(tb testing.TB) {
				leakCheck(tb, 0)
				c.leak()
			})
			if r.failed != (c.want != "") || !strings.Contains(r.said, c.want) {
				t.Errorf("failed %t: %s", r.failed, r.said)
			}
		})
	}
	close(stop)
	f.Close()
	// What goes away by itself is waited for.
	r := run(func(tb testing.TB) {
		LeakCheck(tb)
		ended := make(chan struct{})
		go func() { <-ended }()
		tb.Cleanup(func() { close(ended) })
	})
	if r.failed {
		t.Error(r.said)
	}
}

func TestMain(m *testing.M) { Main(m) }
