// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"

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
	NS     uint64
	PIDs   []int
	Mounts []MountInfo
}

// MountNamespaces returns every mount namespace that a process lives in. Processes that vanish meanwhile are left out. If a namespace's table cannot be
// read through any of its processes the error wraps ErrUnknown: the caller must not conclude that something is unused.
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
	if len(byNS) == 0 {
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
	sort.Slice(all, func(i, j int) bool { return all[i].NS < all[j].NS })
	return all, nil
}

func nsOf(proc string, pid int) (uint64, error) {
	var st unix.Stat_t
	path := filepath.Join(proc, strconv.Itoa(pid), "ns/mnt")
	if err := retry(func() error { return unix.Stat(path, &st) }); err != nil {
		return 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return st.Ino, nil
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
		return nil, err
	}
	defer f.Close()
	return ParseMountInfo(f)
}

// ended tells whether err comes from a process that is gone or a zombie, which has no namespaces any more (the kernel answers ENOENT or EINVAL then).
func ended(proc string, pid int, err error) bool {
	if !isGone(err) && !errors.Is(err, unix.EINVAL) {
		return false
	}
	b, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return isGone(err)
	}
	_, state, err := parseStat(b)
	return err == nil && (state == 'Z' || state == 'X' || state == 'x')
}

// NamespacesWithDevice returns the mounts of a block device in all mount namespaces, the caller's included.
func NamespacesWithDevice(major, minor uint32) ([]NSHolder, error) {
	all, err := MountNamespaces()
	if err != nil {
		return nil, fmt.Errorf("look for mounts of device %d:%d: %w", major, minor, err)
	}
	var holders []NSHolder
	for _, ns := range all {
		for _, m := range ns.Mounts {
			if m.Major == major && m.Minor == minor {
				holders = append(holders, NSHolder{NS: ns.NS, PIDs: ns.PIDs, Mountpoint: m.Mountpoint})
			}
		}
	}
	return holders, nil
}
