// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func dumpable() (int, error) { return unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0) }

func TestProcessStart(t *testing.T) {
	a, err := ProcessStart(os.Getpid())
	if err != nil || a == 0 {
		t.Fatalf("%d, %v", a, err)
	}
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	b, err := ProcessStart(cmd.Process.Pid)
	if err != nil || b < a {
		t.Errorf("child started at %d, this process at %d, %v", b, a, err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := ProcessStart(cmd.Process.Pid); !errors.Is(err, ErrNotExist) {
		t.Errorf("gone: %v", err)
	}
}

func TestParseStat(t *testing.T) {
	const tail = " S 1 2 3 4 5 64 7 8 9 10 11 12 13 14 15 16 17 18 4242 20"
	for _, comm := range []string{"(cat)", "(a b)", "(x) S 1 2)", "(()", "())"} {
		start, ends, err := parseStat([]byte("17 " + comm + tail))
		if err != nil || start != 4242 || ends {
			t.Errorf("%s: %d %t %v", comm, start, ends, err)
		}
	}
	for _, s := range []string{strings.Replace(tail, "S", "Z", 1), strings.Replace(tail, " 64 ", " 68 ", 1)} {
		if _, ends, err := parseStat([]byte("17 (x)" + s)); err != nil || !ends {
			t.Errorf("%q: %t, %v", s, ends, err)
		}
	}
	for _, s := range []string{"", "17", "17 (cat", "17 (cat) S 1 2", "17 (cat) SS" + tail[2:], "17 (cat)" + strings.Replace(tail, " 64 ", " x ", 1)} {
		if _, _, err := parseStat([]byte(s)); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

func TestPeerCred(t *testing.T) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.DialUnix("unix", nil, l.Addr().(*net.UnixAddr))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	pid, uid, err := PeerCred(s)
	if err != nil || pid != os.Getpid() || uid != os.Getuid() {
		t.Errorf("%d, %d, %v", pid, uid, err)
	}
}

// A thread that changed its namespaces must not live on, and must never be the first one, which /proc/PID speaks of.
func TestOnOwnThread(t *testing.T) {
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			runtime.Gosched()
			onOwnThread(func() {
				if unix.Gettid() == unix.Getpid() {
					t.Error("runs on the first thread")
				}
			})
		})
	}
	wg.Wait()
}
