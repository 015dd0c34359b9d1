// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// pinnedNamespaces reads the namespaces without processes: those that a mount of nsfs in a known namespace keeps alive.
func pinnedNamespaces(proc string, known []MountNamespace) ([]MountNamespace, error) {
	seen := map[uint64]bool{}
	for _, ns := range known {
		seen[ns.NS] = true
	}
	var found []MountNamespace
	failed := map[uint64]error{}
	// A namespace found this way may pin another one, hence the growing list.
	for queue := known; len(queue) > 0; queue = queue[1:] {
		ns := queue[0]
		for _, m := range ns.Mounts {
			id, ok := pinnedID(m)
			if !ok || seen[id] {
				continue
			}
			mounts, err := readPinned(proc, ns, m.Mountpoint, id)
			if err != nil {
				// The same mount may be visible, and not covered by another one, in a further namespace.
				failed[id] = err
				continue
			}
			seen[id] = true
			delete(failed, id)
			found = append(found, MountNamespace{NS: id, Mounts: mounts})
			queue = append(queue, found[len(found)-1])
		}
	}
	for id, err := range failed {
		return nil, fmt.Errorf("mounts of namespace %d, which a bind mount keeps alive: %w: %w", id, err, ErrUnknown)
	}
	return found, nil
}

func readPinned(proc string, ns MountNamespace, mountpoint string, id uint64) ([]MountInfo, error) {
	if len(ns.PIDs) == 0 {
		return nil, fmt.Errorf("%s lies in a namespace without processes", mountpoint)
	}
	return enterAndRead(filepath.Join(proc, strconv.Itoa(ns.PIDs[0]), "root", mountpoint), id)
}

func pinnedID(m MountInfo) (uint64, bool) {
	s, ok := strings.CutPrefix(m.Root, "mnt:[")
	if !ok || m.FSType != "nsfs" {
		return 0, false
	}
	id, err := strconv.ParseUint(strings.TrimSuffix(s, "]"), 10, 64)
	return id, err == nil
}

// enterAndRead reads the mount table of the namespace that path leads to, from inside: there is no process whose table could be read. A thread enters
// and is thrown away afterwards.
func enterAndRead(path string, id uint64) ([]MountInfo, error) {
	var m []MountInfo
	var err error
	onOwnThread(func() { m, err = enterHere(path, id) })
	return m, err
}

func enterHere(path string, id uint64) ([]MountInfo, error) {
	ns, err := open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if _, ino, err := FileID(ns); err != nil {
		return nil, err
	} else if ino != id {
		return nil, fmt.Errorf("%s leads to inode %d", path, ino)
	}
	// Opened before entering: the namespace may have no /proc.
	table, err := os.Open("/proc/thread-self")
	if err != nil {
		return nil, err
	}
	defer table.Close()
	if err := enterMounts(ns); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(int(table.Fd()), "mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open mountinfo: %w", err)
	}
	f := os.NewFile(uintptr(fd), "mountinfo")
	defer f.Close()
	return ParseMountInfo(f)
}
