// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/sys"
)

// largest bounds what is read of one file. The longest, /proc/net/unix on a host with many containers, has some megabytes.
const largest = 32 << 20

// Node is what is looked at.
type Node struct {
	// System is where the machine's own /proc, /sys, /etc, /run, /usr, /lib and /var are: "/", but for tests.
	System string
	// Paths are the directories of voluks, ConfigFile its configuration. They are not relative to System.
	Paths      config.Paths
	ConfigFile string // path
	// Owner is the user that everything of voluks must belong to: 0, but for tests.
	Owner int
	// Now is the time, Pid the process whose namespaces are "ours". Zero: those of this process.
	Now func() time.Time
	Pid int // of this process
	// Libcryptsetup is the version of the library that this program runs with.
	Libcryptsetup string
	// Keys says why volumes could not be opened with the configured provider, or nil. Not set: not asked.
	Keys func(config.Config) error
	// Plaintext asks Docker what it keeps in plaintext volumes beside those of voluks, one sentence each. Not set: not asked.
	Plaintext func() ([]string, error)
	// Drills says of which volumes the recovery identity was not tried for too long, one sentence each. Not set: not asked.
	Drills func() ([]string, error)
	// Patience is how long one check may take. 0: 10 s.
	Patience time.Duration
}

func (n *Node) now() time.Time {
	if n.Now == nil {
		return time.Now()
	}
	return n.Now()
}

func (n *Node) self() string {
	if n.Pid != 0 {
		return strconv.Itoa(n.Pid)
	}
	return "self"
}

// at is where a file of the machine is.
func (n *Node) at(path string) string { return filepath.Join(n.System, path) }

// outside is the reverse: what the kernel calls a path of ours.
func (n *Node) outside(path string) string {
	rest, err := filepath.Rel(n.System, path)
	if err != nil || n.System == "" || rest == ".." || strings.HasPrefix(rest, "../") {
		return path
	}
	return filepath.Join("/", rest)
}

// text reads a file of the machine.
func (n *Node) text(path string) (string, error) {
	f, err := os.Open(n.at(path))
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, largest))
	return strings.TrimRight(string(b), "\n"), err
}

// has tells whether a file of the machine is there.
func (n *Node) has(path string) (bool, error) {
	_, err := os.Lstat(n.at(path))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
		return false, nil
	}
	return err == nil, err
}

// first returns the first of these files that is there, or "".
func (n *Node) first(paths ...string) (string, error) {
	for _, path := range paths {
		found, err := n.has(path)
		if err != nil || found {
			return path, err
		}
	}
	return "", nil
}

// list gives the names in a directory of the machine; none if there is no such directory.
func (n *Node) list(path string) ([]string, error) {
	entries, err := os.ReadDir(n.at(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, err
}

// processes finds the processes of these names, which have at most 15 characters in /proc.
func (n *Node) processes(names ...string) ([]string, error) {
	entries, err := n.list("/proc")
	if err != nil {
		return nil, err
	}
	var pids []string
	for _, pid := range entries {
		if _, err := strconv.Atoi(pid); err != nil {
			continue
		}
		comm, err := n.text("/proc/" + pid + "/comm")
		if err == nil && slices.Contains(names, comm) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// agent is the pid of the running agent, "" if none runs.
func (n *Node) agent() (string, error) {
	b, err := os.ReadFile(n.Paths.AgentLock())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	pid := strings.TrimSpace(string(b))
	if _, err := strconv.Atoi(pid); err != nil {
		return "", nil
	}
	// The file outlives the agent, and the pid may be somebody else's by now.
	comm, err := n.text("/proc/" + pid + "/comm")
	if errors.Is(err, fs.ErrNotExist) || err == nil && comm != "voluks" {
		return "", nil
	}
	return pid, err
}

// sameNamespace tells whether two processes share a namespace of that kind ("mnt", "ipc").
func (n *Node) sameNamespace(kind, a, b string) (bool, error) {
	of := func(pid string) (string, error) { return os.Readlink(n.at(fmt.Sprintf("/proc/%s/ns/%s", pid, kind))) }
	first, err := of(a)
	if err != nil {
		return false, err
	}
	second, err := of(b)
	return first == second, err
}

// mounts is the mount table of a process.
func (n *Node) mounts(pid string) ([]sys.MountInfo, error) {
	text, err := n.text("/proc/" + pid + "/mountinfo")
	if err != nil {
		return nil, err
	}
	return sys.ParseMountInfo(strings.NewReader(text))
}

// mountOf is the mount that a path lies on.
func (n *Node) mountOf(path string) (sys.MountInfo, error) {
	mounts, err := n.mounts(n.self())
	if err != nil {
		return sys.MountInfo{}, err
	}
	return mountOf(mounts, n.outside(path))
}

func mountOf(mounts []sys.MountInfo, path string) (sys.MountInfo, error) {
	best := -1
	for i, m := range mounts {
		in := m.Mountpoint == "/" || path == m.Mountpoint || strings.HasPrefix(path, m.Mountpoint+"/")
		// Of two at one place the later one is on top.
		if in && (best < 0 || len(m.Mountpoint) >= len(mounts[best].Mountpoint)) {
			best = i
		}
	}
	if best < 0 {
		return sys.MountInfo{}, fmt.Errorf("no mount holds %s", path)
	}
	return mounts[best], nil
}
