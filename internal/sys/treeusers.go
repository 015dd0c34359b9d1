// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// FileSet is a set of files, by what they are and not by what they are called.
type FileSet struct {
	ids    map[[2]uint64]bool
	names  map[string]bool // without directories
	linked bool            // some have names elsewhere
}

// Add puts a file into the set. The name is its last element.
func (s *FileSet) Add(i Inode, name string) {
	if s.ids == nil {
		s.ids, s.names = map[[2]uint64]bool{}, map[string]bool{}
	}
	s.ids[[2]uint64{i.Dev, i.Ino}] = true
	s.names[name] = true
	s.linked = s.linked || i.Nlink > 1 && i.Type() != TypeDir
}

// Has tells whether a file is in the set.
func (s *FileSet) Has(i Inode) bool { return s.ids[[2]uint64{i.Dev, i.Ino}] }

// Users says who has a file of the set open, mapped, as its directory or program, as the file of a loop device, or swaps to it, whatever name it is known by
// there: containers have mounts of their own. What cannot be looked at is an error that wraps ErrUnknown.
func (s *FileSet) Users() (users []string, err error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w: %w", err, ErrUnknown)
	}
	mapped := map[string]bool{} // device, number and range as maps has them, of files that turned out to be others
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir, thread := filepath.Join("/proc", e.Name()), livingThread("/proc", pid)
		if thread != "" {
			dir = thread
		}
		how, err := s.opened(dir, mapped)
		if err != nil {
			// Of a process that ends at that moment the kernel refuses to tell, like of one that the caller may not look into.
			_, gone := ProcessStart(pid)
			if isGone(err) || isGone(gone) || livingThread("/proc", pid) == "" && ended("/proc", pid, unix.EINVAL) {
				continue
			}
			return nil, fmt.Errorf("what process %d has open: %w: %w", pid, err, ErrUnknown)
		}
		if how != "" {
			users = append(users, process(pid, how).String())
		}
	}
	loops, err := loopList(func(name string) bool { return s.linked || s.names[backingName(name)] })
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrUnknown)
	}
	for _, l := range loops {
		if s.ids[[2]uint64{l.BackingDev, l.BackingIno}] {
			users = append(users, "the loop device "+l.Path)
		}
	}
	swaps, err := os.ReadFile("/proc/swaps")
	if err != nil && !isGone(err) {
		return nil, fmt.Errorf("%w: %w", err, ErrUnknown)
	}
	for line := range bytes.Lines(swaps) {
		path := unescape(string(bytes.SplitN(line, []byte(" "), 2)[0]))
		if i, err := statxOf(unix.AT_FDCWD, path); err == nil && s.Has(i) {
			users = append(users, "the swap file "+path)
		}
	}
	return users, nil
}

// opened tells how the process of that /proc directory uses a file of the set; "" if it does not.
func (s *FileSet) opened(dir string, others map[string]bool) (string, error) {
	uses := func(link string) (bool, error) {
		i, err := behind(filepath.Join(dir, link))
		if isGone(err) {
			return false, nil // closed meanwhile, or a thread of the kernel
		}
		return err == nil && s.Has(i), err
	}
	for _, link := range [][2]string{{"cwd", "working directory"}, {"root", "root directory"}, {"exe", "program"}} {
		if yes, err := uses(link[0]); yes || err != nil {
			return link[1], err
		}
	}
	fds, err := os.ReadDir(filepath.Join(dir, "fd"))
	if err != nil {
		return "", err
	}
	for _, fd := range fds {
		if yes, err := uses("fd/" + fd.Name()); yes || err != nil {
			return "open file", err
		}
	}
	// The numbers in maps are those of the file system below, which for btrfs and overlays are other ones than stat(2) has; so each file is looked at once.
	maps, err := os.ReadFile(filepath.Join(dir, "maps"))
	if err != nil {
		return "", err
	}
	for line := range bytes.Lines(maps) {
		f := strings.Fields(string(line))
		if len(f) < 6 || f[4] == "0" {
			continue
		}
		key := f[3] + " " + f[4]
		if others[key] {
			continue
		}
		var from, to uint64
		if _, err := fmt.Sscanf(f[0], "%x-%x", &from, &to); err != nil {
			return "", fmt.Errorf("%s/maps has %q", dir, f[0])
		}
		i, err := behind(filepath.Join(dir, fmt.Sprintf("map_files/%x-%x", from, to)))
		switch {
		case isGone(err): // unmapped meanwhile; another process may have it still
			if _, err := os.Stat(filepath.Join(dir, "map_files")); err != nil {
				return "", fmt.Errorf("%s does not say which files are mapped", dir) // so it is with a thread
			}
		case err != nil:
			return "", err
		case s.Has(i):
			return "mapped file", nil
		default:
			others[key] = true
		}
	}
	return "", nil
}

// behind looks at the file that a link of /proc leads to, without asking a server far away.
func behind(link string) (Inode, error) {
	var st unix.Statx_t
	err := retry(func() error {
		return unix.Statx(unix.AT_FDCWD, link, unix.AT_NO_AUTOMOUNT|unix.AT_STATX_DONT_SYNC, unix.STATX_INO|unix.STATX_TYPE, &st)
	})
	if errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.EIO) {
		return Inode{}, nil // of a broken file system, hence of another one
	}
	if err != nil {
		return Inode{}, &os.PathError{Op: "stat", Path: link, Err: err}
	}
	return Inode{Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino}, nil
}

func process(pid int, how string) Process {
	comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	return Process{PID: pid, Comm: strings.TrimSpace(string(comm)), How: how}
}

// MountsOver returns mounts, one of each mount namespace, through which the directory at an absolute path or a part of it can be reached by another name:
// containers with a bind mount of it. A mount that this process has too, at the same place, is no use: private namespaces of services begin as copies. An error
// wraps ErrUnknown.
func MountsOver(dir string) ([]string, error) {
	own, err := MountInfoOf("self")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrUnknown)
	}
	all, err := MountNamespaces()
	if err != nil {
		return nil, err
	}
	return mountsOver(dir, own, all), nil
}

func mountsOver(dir string, own []MountInfo, all []MountNamespace) (users []string) {
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
	// Here too: a part of it that is mounted elsewhere. The place that it has by itself is not meant, nor a mount inside it, which the copy refuses.
	for _, m := range own {
		if m.Major == on.Major && m.Minor == on.Minor && below(m.Root, inside) && m.ID != on.ID && !below(m.Mountpoint, dir) {
			users = append(users, "a mount at "+m.Mountpoint)
		}
	}
	for _, ns := range all {
		for _, m := range ns.Mounts {
			if m.Major == on.Major && m.Minor == on.Minor && below(m.Root, inside) && !known[mount{m.Major, m.Minor, m.Root, m.Mountpoint}] {
				who := "a mount namespace at " + m.Mountpoint
				if len(ns.PIDs) > 0 {
					who = process(ns.PIDs[0], "mounted at "+m.Mountpoint).String()
				}
				users = append(users, who)
				break
			}
		}
	}
	return users
}
