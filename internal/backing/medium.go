// SPDX-License-Identifier: Apache-2.0

package backing

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/voluks/voluks/internal/sys"
)

// headerExtents lists where the part of an image lies that an erasure overwrites. What lies in one piece is one extent, written or not.
func headerExtents(f *os.File) (all []sys.Extent, err error) {
	extents, err := sys.FileExtents(f, HeaderSize)
	for _, e := range extents {
		if e.Logical >= HeaderSize {
			break
		}
		e.Length = min(e.Length, HeaderSize-e.Logical)
		if n := len(all); n > 0 && all[n-1].Logical+all[n-1].Length == e.Logical && all[n-1].Physical+all[n-1].Length == e.Physical {
			all[n-1].Length += e.Length
			all[n-1].Flags |= e.Flags
			continue
		}
		all = append(all, e)
	}
	return all, err
}

// BesideFile says why overwriting a file may leave its old content somewhere: on a file system that writes elsewhere, in a journal, in a copy that shares
// extents, or below. None: the new bytes lie where the old ones did, as far as anybody above the device can tell.
func BesideFile(f *os.File) (reasons []string) {
	add := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }
	st, err := sys.Statfs(f.Name())
	switch {
	case err != nil:
		add("its file system is not known: %v", err)
	case st.Type == sys.MagicTmpfs:
		add("its file system is in memory, which may have been swapped out")
	case st.Type == sys.MagicBtrfs:
		add("its file system (btrfs) can keep old blocks when it writes new ones (copy-on-write), for snapshots for example")
	case st.Type != sys.MagicExt && st.Type != sys.MagicXFS:
		add("its file system (type %#x) is not known to overwrite in place", st.Type)
	}
	info, err := f.Stat()
	if err != nil {
		return append(reasons, err.Error())
	}
	stat := info.Sys().(*syscall.Stat_t)
	dev := stat.Dev
	if journaled, err := journalsData(f, dev); err != nil {
		add("whether its file system journals data is not known: %v", err)
	} else if journaled {
		add("its file system journals data, so the journal may hold old blocks")
	}
	extents, err := headerExtents(f)
	if err != nil {
		add("where it lies is not known: %v", err)
	}
	for _, e := range extents {
		if e.Flags&sys.ExtentShared != 0 {
			add("a copy or snapshot shares its blocks, and still holds them")
			break
		}
	}
	for _, e := range extents {
		if e.Flags&sys.ExtentUnfixed != 0 {
			add("its file system does not keep it in blocks of its own")
			break
		}
	}
	major, minor := uint32(dev>>8)&0xfff, uint32(dev)&0xff|uint32(dev>>12)&0xfff00
	if major == 0 { // no device of its own
		return reasons
	}
	return append(reasons, belowDevice(major, minor)...)
}

// journalsData tells whether a file's content goes through the journal: by its own flag, or by an option of its mount.
func journalsData(f *os.File, dev uint64) (bool, error) {
	journaled, err := sys.JournalsData(f)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) || journaled {
		return journaled, err
	}
	mounts, err := sys.MountInfoOf("self")
	if err != nil {
		return false, err
	}
	major, minor := uint32(dev>>8)&0xfff, uint32(dev)&0xff|uint32(dev>>12)&0xfff00
	for _, m := range mounts {
		if m.Major == major && m.Minor == minor && slices.Contains(strings.Split(m.SuperOptions, ","), "data=journal") {
			return true, nil
		}
	}
	return false, nil
}

// inPlaceTargets are the targets of device-mapper that write where they are told to.
var inPlaceTargets = []string{"linear", "striped", "crypt", "mirror", "raid", "raid1", "error", "flakey", "delay"}

// belowDevice says the same of a block device, by everything that it lies on.
func belowDevice(major, minor uint32) (reasons []string) {
	unknown := func(err error) []string {
		return append(reasons, fmt.Sprintf("what lies below is not known: %v", err))
	}
	if d, err := sys.DMByDev(major, minor); err == nil {
		for _, t := range d.Targets {
			if !slices.Contains(inPlaceTargets, t.Type) {
				reasons = append(reasons, fmt.Sprintf("it lies on a device-mapper target (%s) that writes elsewhere or keeps copies", t.Type))
				break
			}
		}
	} else if !errors.Is(err, sys.ErrNotExist) && !errors.Is(err, os.ErrNotExist) {
		return unknown(err)
	}
	if _, err := sys.LoopByDev(major, minor); err == nil {
		return append(reasons, "it lies on a loop device, and what its file does is not known")
	}
	below, err := sys.BlockSlaves(major, minor)
	if err != nil {
		return unknown(err)
	}
	for _, d := range below {
		reasons = append(reasons, belowDevice(d.Major, d.Minor)...)
	}
	if len(below) > 0 {
		return reasons
	}
	rotates, err := sys.Rotational(major, minor)
	if err != nil {
		return unknown(err)
	}
	if !rotates {
		reasons = append(reasons, "it lies on an SSD or something alike, which writes elsewhere and keeps old blocks until it needs them")
	}
	return reasons
}
