// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// settle is how long something may take to go away by itself: an autoclear loop device, a goroutine that was told to stop.
const settle = 5 * time.Second

// LeakCheck fails the test if after it, and after all clean-ups that it registers later, there are file descriptors, goroutines, and in a guest
// device-mapper devices, loop devices or mounts that were not there before. Call it at the start of a test that does not run in parallel.
func LeakCheck(t testing.TB) {
	t.Helper()
	leakCheck(t, settle)
}

func leakCheck(t testing.TB, wait time.Duration) {
	t.Helper()
	before := take()
	t.Cleanup(func() {
		for _, l := range leaks(before, wait) {
			t.Errorf("leaked: %s", l)
		}
	})
}

// Main runs the tests of a binary and fails it if they leave something behind, as LeakCheck does. Use it as the whole of TestMain.
func Main(m *testing.M) {
	before := take()
	code := m.Run()
	if left := leaks(before, settle); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "leaked by the tests of this package:\n\t%s\n", strings.Join(left, "\n\t"))
		code = max(code, 1)
	}
	os.Exit(code)
}

func leaks(before map[string]string, wait time.Duration) []string {
	end := time.Now().Add(wait)
	for {
		after := take()
		maps.DeleteFunc(after, func(k, _ string) bool { _, ok := before[k]; return ok })
		if len(after) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return slices.Sorted(maps.Values(after))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// take describes what exists now: identity to description.
func take() map[string]string {
	s := map[string]string{}
	descriptors(s)
	goroutines(s)
	// The host's devices and mounts are other people's, who use them while tests run.
	if os.Getenv(VarGuest) != "" {
		kernel(s)
	}
	return s
}

func descriptors(s map[string]string) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		// The runtime's own: its poller lives as long as the process, and is made on first use.
		if err != nil || strings.HasPrefix(target, "anon_inode:[eventpoll]") || strings.HasPrefix(target, "anon_inode:[eventfd]") {
			continue
		}
		s["fd "+e.Name()+" "+target] = "file descriptor " + e.Name() + " of " + target
	}
}

func goroutines(s map[string]string) {
	buf := make([]byte, 64<<10)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	for i, g := range strings.Split(string(buf), "\n\n") {
		// The first is the one that asks. The others that belong to the testing package or to signal delivery stay for good reasons.
		if i == 0 || strings.Contains(g, "testing.tRunner") || strings.Contains(g, "testing.(*M)") || strings.Contains(g, "testing.runFuzz") ||
			strings.Contains(g, "os/signal.loop") || strings.Contains(g, "runtime.ensureSigM") || strings.Contains(g, "runtime.runFinalizers") ||
			strings.Contains(g, "runtime.(*cleanupQueue)") || strings.Contains(g, "runtime.runCleanups") {
			continue
		}
		head, _, _ := strings.Cut(g, " [")
		s[head] = g
	}
}

func kernel(s map[string]string) {
	for _, glob := range []string{"/sys/block/dm-*/dm/name", "/sys/block/loop*/loop/backing_file"} {
		paths, _ := filepath.Glob(glob)
		for _, p := range paths {
			b, err := os.ReadFile(p)
			if err != nil {
				continue // gone by now
			}
			dev := strings.Split(p, "/")[3]
			s[dev+string(b)] = "device " + dev + ": " + strings.TrimSpace(string(b))
		}
	}
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(b)) {
		id, _, _ := strings.Cut(line, " ")
		s["mount "+id] = "mount " + strings.TrimSpace(line)
	}
}
