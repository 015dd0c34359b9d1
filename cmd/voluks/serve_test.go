// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/voluks/voluks/dockerplugin"
)

// patience is how long a condition may take to come true.
const patience = 30 * time.Second

// node is a node of its own below a directory that is short enough for a socket.
type node struct {
	t    *testing.T
	root string
}

func newNode(t *testing.T) *node {
	t.Helper()
	root, err := os.MkdirTemp("", "v")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	n := &node{t, root}
	n.run("init", "--recovery-recipient", "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p")
	return n
}

func (n *node) socket() string { return filepath.Join(n.root, "run/docker/plugins/voluks.sock") }

func (n *node) command(args ...string) *exec.Cmd {
	return voluks(append([]string{"--root", n.root}, args...)...)
}

// run runs a command that must succeed and returns its output.
func (n *node) run(args ...string) string {
	n.t.Helper()
	out, err := n.command(args...).CombinedOutput()
	if err != nil {
		n.t.Fatalf("voluks %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// agent is a running "voluks serve".
type runningAgent struct {
	*exec.Cmd
	t    *testing.T
	log  *bytes.Buffer
	done chan struct{}
	err  error
}

func (n *node) start(cmd *exec.Cmd) *runningAgent {
	n.t.Helper()
	a := &runningAgent{Cmd: cmd, t: n.t, log: &bytes.Buffer{}, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = a.log, a.log
	if err := cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	go func() { a.err = cmd.Wait(); close(a.done) }()
	n.t.Cleanup(func() { cmd.Process.Kill(); <-a.done })
	return a
}

// serve starts an agent and waits until it answers.
func (n *node) serve() *runningAgent {
	n.t.Helper()
	a := n.start(n.command("serve"))
	a.until("answers", func() bool { return dockerplugin.Ping(n.t.Context(), n.socket()) == nil })
	return a
}

func (a *runningAgent) until(what string, ok func() bool) {
	a.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		select {
		case <-a.done:
			a.t.Fatalf("the agent ended (%v) before it %s:\n%s", a.err, what, a.log)
		default:
		}
		if time.Now().After(end) {
			a.Process.Kill()
			<-a.done
			a.t.Fatalf("the agent never %s:\n%s", what, a.log)
		}
	}
}

// end sends a signal and returns how the agent ended, and its log.
func (a *runningAgent) end(s os.Signal) (string, string) {
	a.t.Helper()
	a.Process.Signal(s)
	select {
	case <-a.done:
	case <-time.After(patience):
		a.t.Fatal("the agent does not end")
	}
	return a.ProcessState.String(), a.log.String()
}

func (n *node) call(call, body string) string {
	n.t.Helper()
	answer, err := n.post(call, body)
	if err != nil {
		n.t.Fatal(err)
	}
	return answer
}

func (n *node) post(call, body string) (string, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", n.socket())
	}}}
	resp, err := client.Post("http://docker/"+call, "", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return strings.TrimSpace(string(answer)), err
}

// listsNothing wants an empty list. Only root may look at the host's mounts and mappings; others are told so in the log.
func (n *node) listsNothing() {
	n.t.Helper()
	want := `{"Volumes":[]}`
	if os.Geteuid() != 0 {
		want = `{"Err":"list: internal error; the log of voluks has it as operation`
	}
	if got := n.call("VolumeDriver.List", "{}"); !strings.HasPrefix(got, want) {
		n.t.Errorf("List: got %s, want %s", got, want)
	}
}

// The whole way from the socket to a worker process and back, and a clean end.
func TestServe(t *testing.T) {
	n := newNode(t)
	a := n.serve()
	n.listsNothing()
	if got := n.call("VolumeDriver.Unmount", `{"Name":"db","ID":"x"}`); !strings.Contains(got, "no such volume") { // answered by a worker
		t.Errorf("Unmount: %s", got)
	}
	if got := n.call("VolumeDriver.Create", `{"Name":"db","Opts":{"size":"10"}}`); !strings.Contains(got, "write for example 10M or 10G") {
		t.Errorf("Create: %s", got)
	}
	status, log := a.end(syscall.SIGTERM)
	if status != "exit status 0" || !strings.Contains(log, "mounted volumes stay mounted") {
		t.Errorf("ended with %s:\n%s", status, log)
	}
	if _, err := os.Lstat(n.socket()); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// Options are read with the configuration of the moment, as the worker does, so both always agree.
func TestServeFollowsTheConfiguration(t *testing.T) {
	n := newNode(t)
	n.serve()
	file := filepath.Join(n.root, "etc/voluks/config.toml")
	if err := os.WriteFile(file, []byte("recovery = \"none\"\nnonsense = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := n.call("VolumeDriver.Create", `{"Name":"db"}`); !strings.Contains(got, "config.toml:2: nonsense") {
		t.Errorf("Create: %s", got)
	}
	n.listsNothing()
}

func TestSecondAgent(t *testing.T) {
	n := newNode(t)
	a := n.serve()
	out, err := n.command("serve").CombinedOutput()
	if err == nil || !strings.Contains(string(out), fmt.Sprintf("error: another agent runs on this node (pid %d)", a.Process.Pid)) || !strings.Contains(err.Error(), "status 5") {
		t.Errorf("got %v:\n%s", err, out)
	}
	if err := dockerplugin.Ping(t.Context(), n.socket()); err != nil {
		t.Errorf("the first agent lost its socket: %v", err)
	}
}

// F24: what a killed agent leaves does not keep the next one from starting.
func TestServeAfterKill(t *testing.T) {
	n := newNode(t)
	n.serve().end(syscall.SIGKILL)
	if _, err := os.Lstat(n.socket()); err != nil {
		t.Fatalf("the test needs a stale socket: %v", err)
	}
	n.serve()
}

// Socket activation, and what systemd is told: the socket of systemd is served and outlives the agent, READY comes when requests are taken.
func TestServeUnderSystemd(t *testing.T) {
	n := newNode(t)
	path := filepath.Join(n.root, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	file, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(n.root, "n"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()

	// The name by which systemd passes it, and the pid that only the child knows.
	cmd := exec.Command("bash", "-c", `export LISTEN_PID=$$; exec -a voluks "$@"`, "bash", os.Args[0], "--root", n.root, "serve")
	cmd.Env = append(os.Environ(), "LISTEN_FDS=1", "LISTEN_FDNAMES=docker", "NOTIFY_SOCKET="+notify.LocalAddr().String(), "WATCHDOG_USEC=200000", "JOURNAL_STREAM=1:2")
	cmd.ExtraFiles = []*os.File{file}
	a := n.start(cmd)

	told := map[string]bool{}
	listen := func(want string) {
		t.Helper()
		buf := make([]byte, 4096)
		for !told[want] {
			notify.SetReadDeadline(time.Now().Add(patience))
			k, err := notify.Read(buf)
			if err != nil {
				t.Fatalf("systemd is not told %s (but %v): %v\n%s", want, told, err, a.log)
			}
			told[string(buf[:k])] = true
		}
	}
	listen("READY=1")
	if err := dockerplugin.Ping(t.Context(), path); err != nil {
		t.Errorf("the socket of systemd is not served: %v", err)
	}
	if os.Geteuid() == 0 { // the host's mount table is root's
		listen("STATUS=0 volumes, 0 mounted")
	}
	listen("WATCHDOG=1")
	status, log := a.end(syscall.SIGTERM)
	listen("STOPPING=1")
	if status != "exit status 0" || !strings.Contains(log, "<6>msg=\"listening on the socket of systemd\"") {
		t.Errorf("ended with %s:\n%s", status, log)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the agent removed the socket of systemd: %v", err)
	}
	if _, err := os.Lstat(n.socket()); !os.IsNotExist(err) {
		t.Errorf("the agent made a socket beside that of systemd: %v", err)
	}
}

// A socket that systemd holds for a service that is not started is not taken away.
func TestServeBesideSystemd(t *testing.T) {
	n := newNode(t)
	if err := os.MkdirAll(filepath.Dir(n.socket()), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", n.socket())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := n.command("serve").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "another process listens there already") || !strings.Contains(string(out), "systemctl start voluks.service") {
		t.Errorf("got %v:\n%s", err, out)
	}
}

// An unusable master key keeps no agent from starting: it is said, and volumes that need no key go on.
func TestServeWithoutKey(t *testing.T) {
	n := newNode(t)
	if err := os.Remove(filepath.Join(n.root, "etc/voluks/master.key")); err != nil {
		t.Fatal(err)
	}
	a := n.serve()
	if _, log := a.end(syscall.SIGTERM); !strings.Contains(log, "volumes cannot be opened") {
		t.Errorf("the log does not tell:\n%s", log)
	}
}
