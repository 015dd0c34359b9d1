// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// NSHolder is a mount of a device in some mount namespace.
type NSHolder struct {
	NS         uint64 // inode number of the namespace
	PIDs       []int  // processes in it; empty if only a bind mount keeps it alive
	Mountpoint string // as seen in it
}

// MountNamespace is a mount namespace with its processes and its mount table.
type MountNamespace struct {
	NS     uint64      // inode number of the namespace
	PIDs   []int       // of processes in it
	Mounts []MountInfo // in it
}

// MountNamespaces returns every mount namespace that a process lives in or that a bind mount keeps alive (snapd does that); one that only an open
// descriptor keeps is not seen. Processes that vanish meanwhile are left out. If a namespace's table cannot be
// read the error wraps ErrUnknown: the caller must not conclude that something is unused.
func MountNamespaces() ([]MountNamespace, error) { return mountNamespaces("/proc") }

func mountNamespaces(proc string) ([]MountNamespace, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w: %w", err, ErrUnknown)
	}
	byNS := map[uint64][]int{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		ns, err := nsOf(proc, pid)
		if err != nil {
			if ended(proc, pid, err) {
				continue
			}
			return nil, fmt.Errorf("mount namespace of process %d: %w: %w", pid, err, ErrUnknown)
		}
		byNS[ns] = append(byNS[ns], pid)
	}
	if len(byNS) == 0 { // not even the caller: a foreign or hidden /proc
		return nil, fmt.Errorf("list processes: %s shows none: %w", proc, ErrUnknown)
	}
	var all []MountNamespace
	for ns, pids := range byNS {
		m, gone, err := tableOf(proc, ns, pids)
		if err != nil {
			return nil, err
		}
		if !gone {
			all = append(all, MountNamespace{NS: ns, PIDs: pids, Mounts: m})
		}
	}
	pinned, err := pinnedNamespaces(proc, all)
	if err != nil {
		return nil, err
	}
	all = append(all, pinned...)
	slices.SortFunc(all, func(a, b MountNamespace) int { return cmp.Compare(a.NS, b.NS) })
	return all, nil
}

func nsOf(proc string, pid int) (uint64, error) {
	var st unix.Stat_t
	path := filepath.Join(proc, strconv.Itoa(pid), "ns/mnt")
	look := func() error { return retry(func() error { return unix.Stat(path, &st) }) }
	err := look()
	if err != nil {
		if thread := livingThread(proc, pid); thread != "" {
			path = filepath.Join(thread, "ns/mnt")
			err = look()
		}
	}
	if err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
}

// livingThread is the directory in proc of a thread that goes on in a process whose first one has ended, which is legal, and after which the process's own
// directory shows nothing of what it has; "" in all other cases.
func livingThread(proc string, pid int) string {
	dir := filepath.Join(proc, strconv.Itoa(pid))
	if !ends(dir) {
		return ""
	}
	threads, err := os.ReadDir(filepath.Join(dir, "task"))
	if err != nil {
		return ""
	}
	for _, thread := range threads {
		if task := filepath.Join(dir, "task", thread.Name()); !ends(task) {
			return task
		}
	}
	return ""
}

// tableOf reads the mount table of a namespace through the first of its processes that still is in it.
func tableOf(proc string, ns uint64, pids []int) (m []MountInfo, gone bool, err error) {
	for _, pid := range pids {
		m, err := readMounts(proc, pid)
		if err != nil {
			if ended(proc, pid, err) {
				continue
			}
			return nil, false, fmt.Errorf("mounts of process %d: %w: %w", pid, err, ErrUnknown)
		}
		// The process may have entered another namespace, or the pid be another process's by now.
		if now, err := nsOf(proc, pid); err != nil || now != ns {
			continue
		}
		return m, false, nil
	}
	return nil, true, nil
}

func readMounts(proc string, pid int) ([]MountInfo, error) {
	f, err := os.Open(filepath.Join(proc, strconv.Itoa(pid), "mountinfo"))
	if err != nil {
		if thread := livingThread(proc, pid); thread != "" {
			f, err = os.Open(filepath.Join(thread, "mountinfo"))
		}
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ParseMountInfo(f)
}

// ended tells whether err comes from a process that is gone, a zombie, or about to be one: it has no namespaces any more, and no files either, which it
// gives up first. The kernel answers ENOENT or EINVAL then, and EACCES to whoever has found the process and asks for its namespace too late.
func ended(proc string, pid int, err error) bool {
	if !isGone(err) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EACCES) {
		return false
	}
	return ends(filepath.Join(proc, strconv.Itoa(pid)))
}

// ends tells whether the process or thread of a directory in proc has ended or is about to.
func ends(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return isGone(err)
	}
	_, ends, err := parseStat(b)
	return err == nil && ends
}

// NamespacesWithDevice returns the mounts of a block device in all mount namespaces, the caller's included. btrfs shows an anonymous device number, so
// its mounts are known by their source. If the kernel says that a mounted btrfs uses the device, but no mount of it is found, the error wraps
// ErrUnknown.
func NamespacesWithDevice(major, minor uint32) ([]NSHolder, error) {
	all, err := MountNamespaces()
	if err != nil {
		return nil, fmt.Errorf("look for mounts of device %d:%d: %w", major, minor, err)
	}
	names := deviceNames("/sys", major, minor)
	var holders []NSHolder
	btrfs := false
	for _, ns := range all {
		for _, m := range ns.Mounts {
			isBtrfs := m.FSType == "btrfs" && slices.Contains(names, m.Source)
			if m.Major == major && m.Minor == minor || isBtrfs {
				holders = append(holders, NSHolder{NS: ns.NS, PIDs: ns.PIDs, Mountpoint: m.Mountpoint})
			}
			btrfs = btrfs || isBtrfs
		}
	}
	if !btrfs && usedByBtrfs("/sys", names) {
		return nil, fmt.Errorf("look for mounts of device %d:%d: a btrfs on it is mounted somewhere: %w", major, minor, ErrUnknown)
	}
	return holders, nil
}

// deviceNames returns the paths under which a device is usually mounted, the kernel's own name first.
func deviceNames(root string, major, minor uint32) []string {
	dir, err := filepath.EvalSymlinks(filepath.Join(root, "dev/block", fmt.Sprintf("%d:%d", major, minor)))
	if err != nil {
		return nil
	}
	names := []string{"/dev/" + filepath.Base(dir)}
	if b, err := os.ReadFile(filepath.Join(dir, "dm/name")); err == nil {
		names = append(names, "/dev/mapper/"+strings.TrimSpace(string(b)))
	}
	return names
}

// usedByBtrfs tells whether a mounted btrfs has the device: it is listed below /sys/fs/btrfs as long as any mount of it exists.
func usedByBtrfs(root string, names []string) bool {
	if len(names) == 0 {
		return false
	}
	found, _ := filepath.Glob(filepath.Join(root, "fs/btrfs/*/devices", filepath.Base(names[0])))
	return len(found) > 0
}
