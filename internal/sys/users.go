// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process is a process that uses something.
type Process struct {
	PID  int    // in this namespace
	Comm string // the command's name
	How  string // "open file", "working directory", "root directory", "program", "mapped file", "mounted at PATH"
}

// String says it for people.
func (p Process) String() string { return fmt.Sprintf("process %d (%s, %s)", p.PID, p.Comm, p.How) }

// ProcessesUsing returns processes that keep the mount at mountpoint busy: those found, without a claim to be all. It is for messages alone. It asks
// /proc and never the file system itself.
func ProcessesUsing(mountpoint string) []Process {
	table, err := MountInfoOf("self")
	if err != nil {
		return nil
	}
	var mount *MountInfo
	for i := range table {
		if table[i].Mountpoint == mountpoint {
			mount = &table[i] // the last is the topmost
		}
	}
	if mount == nil {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var users []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		if how := usage(dir, mount); how != "" {
			users = append(users, process(pid, how))
		}
	}
	return users
}

// usage tells how the process of that /proc directory uses the mount; empty if it does not, as far as can be seen.
func usage(dir string, m *MountInfo) string {
	for _, link := range [][2]string{{"cwd", "working directory"}, {"root", "root directory"}, {"exe", "program"}} {
		if target, err := os.Readlink(filepath.Join(dir, link[0])); err == nil && below(target, m.Mountpoint) {
			return link[1]
		}
	}
	// Mount ids are unique in the whole system. A stat of the file behind the descriptor might wait for some other, broken file system.
	entries, _ := os.ReadDir(filepath.Join(dir, "fdinfo"))
	id := []byte(fmt.Sprintf("mnt_id:\t%d\n", m.ID))
	for _, e := range entries {
		if b, err := os.ReadFile(filepath.Join(dir, "fdinfo", e.Name())); err == nil && bytes.Contains(b, id) {
			return "open file"
		}
	}
	if maps, err := os.ReadFile(filepath.Join(dir, "maps")); err == nil {
		dev := []byte(fmt.Sprintf(" %02x:%02x ", m.Major, m.Minor))
		for line := range bytes.Lines(maps) {
			if bytes.Contains(line, dev) && bytes.Contains(line, []byte(" "+m.Mountpoint+"/")) {
				return "mapped file"
			}
		}
	}
	return ""
}

// ProcessesOpening returns the processes that have a file open or mapped, or are in a directory, of which match says that it is meant, whatever path they know
// it by: containers have mounts of their own. What cannot be seen is left out.
func ProcessesOpening(match func(dev, ino uint64) bool) []Process {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var users []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if how := opening(filepath.Join("/proc", e.Name()), match); how != "" {
			users = append(users, process(pid, how))
		}
	}
	return users
}

func opening(dir string, match func(dev, ino uint64) bool) string {
	opened := func(link string) bool {
		var st unix.Stat_t
		return unix.Stat(filepath.Join(dir, link), &st) == nil && match(st.Dev, st.Ino)
	}
	for _, link := range [][2]string{{"cwd", "working directory"}, {"root", "root directory"}, {"exe", "program"}} {
		if opened(link[0]) {
			return link[1]
		}
	}
	fds, _ := os.ReadDir(filepath.Join(dir, "fd"))
	for _, fd := range fds {
		if opened("fd/" + fd.Name()) {
			return "open file"
		}
	}
	maps, _ := os.ReadFile(filepath.Join(dir, "maps"))
	for line := range bytes.Lines(maps) {
		var major, minor uint32
		var ino uint64
		if f := bytes.Fields(line); len(f) >= 6 {
			_, err1 := fmt.Sscanf(string(f[3]), "%x:%x", &major, &minor)
			_, err2 := fmt.Sscanf(string(f[4]), "%d", &ino)
			if err1 == nil && err2 == nil && ino != 0 && match(unix.Mkdev(major, minor), ino) {
				return "mapped file"
			}
		}
	}
	return ""
}

func process(pid int, how string) Process {
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return Process{PID: pid, Comm: strings.TrimSpace(string(comm)), How: how}
}

// ProcessesMounting returns processes, one of each mount namespace, that have the directory or a part of it mounted somewhere: containers with a bind mount of
// it. A mount that this process has too, at the same place, is no use: private namespaces of services begin as copies. An error wraps ErrUnknown.
func ProcessesMounting(dir string) ([]Process, error) {
	own, err := MountInfoOf("self")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrUnknown)
	}
	all, err := MountNamespaces()
	if err != nil {
		return nil, err
	}
	return mounting(dir, own, all), nil
}

func mounting(dir string, own []MountInfo, all []MountNamespace) []Process {
	type mount struct {
		major, minor     uint32
		root, mountpoint string
	}
	known := map[mount]bool{}
	var on MountInfo // that dir lies on
	for _, m := range own {
		known[mount{m.Major, m.Minor, m.Root, m.Mountpoint}] = true
		if below(dir, strings.TrimSuffix(m.Mountpoint, "/")) && len(m.Mountpoint) >= len(on.Mountpoint) {
			on = m
		}
	}
	inside := filepath.Join(on.Root, strings.TrimPrefix(dir, strings.TrimSuffix(on.Mountpoint, "/"))) // of dir, in its file system
	var users []Process
	for _, ns := range all {
		for _, m := range ns.Mounts {
			if m.Major == on.Major && m.Minor == on.Minor && below(m.Root, inside) && !known[mount{m.Major, m.Minor, m.Root, m.Mountpoint}] && len(ns.PIDs) > 0 {
				users = append(users, process(ns.PIDs[0], "mounted at "+m.Mountpoint))
				break
			}
		}
	}
	return users
}

// below tells whether a path is a directory or lies in it; the root is "".
func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
