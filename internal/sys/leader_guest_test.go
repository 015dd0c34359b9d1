// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/voluks/voluks/internal/testenv"
)

const deadLeader = "VOLUKS_TEST_DEAD_LEADER"

// With that variable this program opens the file that it names and ends its first thread, while another one goes on until its input ends.
func init() {
	path := os.Getenv(deadLeader)
	if path == "" {
		return
	}
	f, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	go func() {
		for livingThread("/proc", os.Getpid()) == "" {
		}
		fmt.Println("goes on")
		io.Copy(io.Discard, os.Stdin)
		f.Close()
		os.Exit(0)
	}()
	syscall.Syscall(syscall.SYS_EXIT, 0, 0, 0) // init runs in the first thread
}

// What a process has whose first thread has ended is found all the same, and so is its namespace. F51
func TestDeadLeader(t *testing.T) {
	testenv.Guest(t)
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, []byte("x"), 0o600))
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), deadLeader+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	defer func() {
		must(t, in.Close())
		must(t, cmd.Wait())
	}()
	if _, err := io.ReadFull(out, make([]byte, len("goes on"))); err != nil {
		t.Fatal(err)
	}
	all, err := MountNamespaces()
	must(t, err)
	if !slices.ContainsFunc(all, func(ns MountNamespace) bool { return slices.Contains(ns.PIDs, cmd.Process.Pid) && len(ns.Mounts) > 0 }) {
		t.Errorf("process %d and its namespace are not among %d namespaces", cmd.Process.Pid, len(all))
	}
	i, err := statxOf(unix.AT_FDCWD, path)
	must(t, err)
	var set FileSet
	set.Add(i, filepath.Base(path))
	users, err := set.Users()
	if err != nil || len(users) != 1 {
		t.Errorf("users %q, %v", users, err)
	}
}
