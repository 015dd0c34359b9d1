// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestMain lets the test binary be the activated service of TestListenersOfAnActivatedProcess.
func TestMain(m *testing.M) {
	if os.Getenv("VOLUKS_TEST_ACTIVATED") != "" {
		activated()
		return
	}
	os.Exit(m.Run())
}

// activated answers one connection on the socket named "plugin" and shows that its environment was cleaned.
func activated() {
	sockets, err := Listeners()
	if err != nil {
		fmt.Println("error:", err)
		return
	}
	l, err := sockets.Take("plugin")
	if err != nil || l == nil {
		fmt.Println("no listener:", err)
		return
	}
	conn, err := l.Accept()
	if err != nil {
		fmt.Println("accept:", err)
		return
	}
	fmt.Fprintf(conn, "left=%v fds=%q", sockets.Names(), os.Getenv("LISTEN_FDS"))
	conn.Close()
}

func listenUnix(t *testing.T) (*net.UnixListener, *os.File) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(t.TempDir(), "s"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return l, f
}

// A real process start the way systemd does it: descriptors from 3 on, announced in the environment.
func TestListenersOfAnActivatedProcess(t *testing.T) {
	l, f := listenUnix(t)
	other, otherFile := listenUnix(t)
	_ = other
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `LISTEN_PID=$$ exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), "VOLUKS_TEST_ACTIVATED=1", "LISTEN_FDS=2", "LISTEN_FDNAMES=other:plugin")
	cmd.ExtraFiles = []*os.File{otherFile, f}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// If the child fails before it answers, closing our copy ends the wait.
	go func() { cmd.Wait(); l.Close(); f.Close() }()
	got, err := io.ReadAll(conn)
	if want := `left=[other] fds=""`; string(got) != want || err != nil {
		t.Fatalf("got %q, %v, want %q; the child says %q", got, err, want, out.String())
	}
}

func TestNothingHandedOver(t *testing.T) {
	sockets, err := Listeners()
	if err != nil || len(sockets) != 0 {
		t.Fatalf("got %v, %v, want none", sockets, err)
	}
	if l, err := sockets.Take("plugin"); l != nil || err != nil {
		t.Fatalf("got %v, %v, want nothing", l, err)
	}
}

func TestDescriptorThatIsNoListener(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	_, f := listenUnix(t)
	if _, err := wrap([]*os.File{f, r}); err == nil || !strings.Contains(err.Error(), "from systemd") {
		t.Fatalf("got %v, want an error about the socket from systemd", err)
	}
}

func TestTwoListenersOfOneName(t *testing.T) {
	a, _ := listenUnix(t)
	b, _ := listenUnix(t)
	sockets := Sockets{"plugin": {a, b}}
	if _, err := sockets.Take("plugin"); err == nil || !strings.Contains(err.Error(), "passes 2") {
		t.Fatalf("got %v, want an error about two sockets", err)
	}
}

// manager is the receiving end of sd_notify.
func manager(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return conn
}

func receive(t *testing.T, conn *net.UnixConn, timeout time.Duration) (string, bool) {
	t.Helper()
	buf := make([]byte, 4096)
	conn.SetReadDeadline(time.Now().Add(timeout))
	n, err := conn.Read(buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return "", false
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n]), true
}

func TestNotify(t *testing.T) {
	conn := manager(t)
	var n Notifier
	for _, step := range []struct {
		send func()
		want string
	}{
		{n.Ready, "READY=1"},
		{n.Stopping, "STOPPING=1"},
		{func() { n.Status("%d volumes\nREADY=1", 3) }, "STATUS=3 volumes READY=1"},
		{func() { n.ExtendTimeout(90 * time.Second) }, "EXTEND_TIMEOUT_USEC=90000000"},
	} {
		step.send()
		if got, _ := receive(t, conn, 10*time.Second); got != step.want {
			t.Errorf("got %q, want %q", got, step.want)
		}
	}
}

func TestNotifyUndelivered(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "nobody"))
	var log bytes.Buffer
	Notifier{Log: slog.New(slog.NewTextHandler(&log, nil))}.Ready()
	if !strings.Contains(log.String(), "not notified") {
		t.Errorf("log is %q, want a warning", log.String())
	}
	t.Setenv("NOTIFY_SOCKET", "")
	log.Reset()
	Notifier{Log: slog.New(slog.NewTextHandler(&log, nil))}.Ready()
	if log.Len() > 0 {
		t.Errorf("outside systemd it logs %q, want nothing", log.String())
	}
}

// The watchdog is fed by progress, not by the process being there.
func TestWatchdogFollowsTheCheck(t *testing.T) {
	conn := manager(t)
	const interval = 40 * time.Millisecond
	var sick atomic.Bool
	checked := make(chan struct{}, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		Watchdog(ctx, Notifier{}, interval, func(ctx context.Context) error {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("the check has no deadline")
			}
			defer func() { checked <- struct{}{} }()
			if sick.Load() {
				return errors.New("stuck")
			}
			return nil
		})
	}()
	for range 3 {
		if got, _ := receive(t, conn, 10*time.Second); got != "WATCHDOG=1" {
			t.Fatalf("got %q, want WATCHDOG=1", got)
		}
	}
	sick.Store(true)
	<-checked
	for len(checked) > 0 {
		<-checked
	}
	<-checked // from here on every check has seen the sickness
	for {
		if _, more := receive(t, conn, time.Millisecond); !more {
			break
		}
	}
	<-checked
	<-checked
	if got, ok := receive(t, conn, time.Millisecond); ok {
		t.Errorf("a failing check still sent %q", got)
	}
	cancel()
	<-done
}

func TestWatchdogInterval(t *testing.T) {
	if d, err := WatchdogInterval(); d != 0 || err != nil {
		t.Errorf("got %v, %v, want 0 outside systemd", d, err)
	}
	t.Setenv("WATCHDOG_USEC", "30000000")
	t.Setenv("WATCHDOG_PID", fmt.Sprint(os.Getpid()))
	if d, err := WatchdogInterval(); d != 30*time.Second || err != nil {
		t.Errorf("got %v, %v, want 30s", d, err)
	}
	t.Setenv("WATCHDOG_USEC", "often")
	if _, err := WatchdogInterval(); err == nil {
		t.Error("a wrong interval is no error")
	}
	Watchdog(t.Context(), Notifier{}, 0, nil) // returns at once
}

// A process that is started for one connection gets it the same way as a listening socket.
func TestConnection(t *testing.T) {
	if _, err := Connection(); err == nil || !strings.Contains(err.Error(), "0 descriptors") {
		t.Errorf("outside systemd: %v", err)
	}
}
