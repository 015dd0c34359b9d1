// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Loop describes a bound loop device. What it is bound to is named by device and inode number of the file: a path can be renamed, reused or belong
// to another mount namespace, and the number in the device's own name says nothing at all.
type Loop struct {
	Path                   string // /dev/loopN
	Major, Minor           uint32 // of its block device
	BackingDev, BackingIno uint64 // as Stat of the file has them
	Offset, SizeLimit      uint64 // bytes; both 0 if the whole file is bound
	BlockSize              int    // logical, in bytes
	ReadOnly               bool   // it takes no writes
	Direct                 bool   // direct I/O to the file
	Autoclear              bool   // the kernel unbinds it when the last user closes it
	File                   string // path as sysfs shows it, " (deleted)" included; for people only
}

// FileID returns device and inode number of an open file, encoded as Loop has them.
func FileID(f *os.File) (dev, ino uint64, err error) {
	var st unix.Stat_t
	err = control(f, func(fd int) error { return retry(func() error { return unix.Fstat(fd, &st) }) })
	if err != nil {
		return 0, 0, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return uint64(st.Dev), st.Ino, nil
}

// DeviceBelow returns the number of the device of the file system that an open file is in.
func DeviceBelow(f *os.File) (major, minor uint32, err error) {
	dev, _, err := FileID(f)
	return unix.Major(dev), unix.Minor(dev), err
}

// LoopsOver returns the loop devices that are bound to an open file, whoever bound them. Devices over files of other names are not asked: asking one
// waits for whoever works on it, and so for ever if the disk below it does not answer.
func LoopsOver(f *os.File) ([]Loop, error) {
	var st unix.Stat_t
	if err := control(f, func(fd int) error { return unix.Fstat(fd, &st) }); err != nil {
		return nil, fmt.Errorf("loop devices of %s: %w", f.Name(), err)
	}
	concerns := func(string) bool { return true }
	if st.Nlink == 1 { // so it has no other name, and the kernel shows the one that it has now
		concerns = func(name string) bool { return backingName(name) == filepath.Base(f.Name()) }
	}
	all, err := loopList(concerns)
	if err != nil {
		return nil, err
	}
	var found []Loop
	for _, l := range all {
		if l.BackingDev == uint64(st.Dev) && l.BackingIno == st.Ino {
			found = append(found, l)
		}
	}
	return found, nil
}

// backingName is the last part of the path of a loop device's file, "" if the device is not bound.
func backingName(loop string) string {
	b, err := os.ReadFile(filepath.Join("/sys/block", loop, "loop/backing_file"))
	if err != nil {
		return ""
	}
	return filepath.Base(strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), " (deleted)"))
}

// LoopList returns all bound loop devices. It may wait for each of them.
func LoopList() ([]Loop, error) { return loopList(func(string) bool { return true }) }

func loopList(concerns func(name string) bool) ([]Loop, error) {
	dirs, err := filepath.Glob("/sys/block/loop*/loop")
	if err != nil {
		return nil, fmt.Errorf("list loop devices: %w", err)
	}
	if len(dirs) == 0 {
		if _, err := os.Stat("/sys/block"); err != nil {
			return nil, fmt.Errorf("list loop devices: %w", err)
		}
	}
	var all []Loop
	for _, dir := range dirs {
		name := filepath.Base(filepath.Dir(dir))
		if !concerns(name) {
			continue
		}
		l, ok, err := loopOf(name)
		if err != nil {
			return nil, fmt.Errorf("list loop devices: %w", err)
		}
		if ok {
			all = append(all, l)
		}
	}
	return all, nil
}

// LoopByDev returns the loop device with that number; ErrNotExist if it is not bound, or no loop device.
func LoopByDev(major, minor uint32) (Loop, error) {
	real, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return Loop{}, fmt.Errorf("look up loop device %d:%d: %w", major, minor, err)
	}
	name := filepath.Base(real)
	l, ok := Loop{}, false
	if strings.HasPrefix(name, "loop") {
		l, ok, err = loopOf(name)
	}
	if err != nil {
		return Loop{}, fmt.Errorf("look up loop device %d:%d: %w", major, minor, err)
	}
	if !ok {
		return Loop{}, fmt.Errorf("look up loop device %d:%d: %w", major, minor, ErrNotExist)
	}
	return l, nil
}

// loopOf describes the device of that kernel name; ok is false if it is not bound (any more).
func loopOf(name string) (l Loop, ok bool, err error) {
	// Only a device that sysfs shows as bound is opened: an open of every loop device would hold up others that want them free.
	if _, err := os.Stat(filepath.Join("/sys/block", name, "loop")); err != nil {
		if isGone(err) {
			return Loop{}, false, nil
		}
		return Loop{}, false, err
	}
	f, err := openLoop(name)
	if isGone(err) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		if _, err := os.Stat(filepath.Join("/sys/block", name, "loop")); err == nil {
			return Loop{}, false, fmt.Errorf("%s is bound, but has no node in /dev: share /dev with the container: %w", name, ErrUnknown)
		}
		return Loop{}, false, nil
	}
	if err != nil {
		return Loop{}, false, err
	}
	defer f.Close()
	l, err = loopStatus(f)
	if errors.Is(err, unix.ENXIO) {
		return Loop{}, false, nil
	}
	return l, err == nil, err
}

func openLoop(name string) (*os.File, error) {
	return open("/dev/"+name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
}

// loopStatus describes an open loop device; ENXIO if it is not bound. While f stays open the answer stays true: an unbind waits for the last user
// (only LOOP_CHANGE_FD, which works on read-only devices alone, could swap the file).
func loopStatus(f *os.File) (Loop, error) {
	var info *unix.LoopInfo64
	var st unix.Stat_t
	err := control(f, func(fd int) (err error) {
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		info, err = unix.IoctlLoopGetStatus64(fd)
		return err
	})
	if err != nil {
		return Loop{}, fmt.Errorf("status of %s: %w", f.Name(), err)
	}
	l := Loop{
		Path: f.Name(), Major: unix.Major(st.Rdev), Minor: unix.Minor(st.Rdev), BackingDev: loopBackingDev(info.Device), BackingIno: info.Inode,
		Offset: info.Offset, SizeLimit: info.Sizelimit, ReadOnly: info.Flags&unix.LO_FLAGS_READ_ONLY != 0,
		Direct: info.Flags&unix.LO_FLAGS_DIRECT_IO != 0, Autoclear: info.Flags&unix.LO_FLAGS_AUTOCLEAR != 0,
	}
	if l.BlockSize, err = logicalBlockSize(f); err != nil {
		return Loop{}, err
	}
	if b, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(l.Path), "loop/backing_file")); err == nil {
		l.File = strings.TrimSuffix(string(b), "\n")
	}
	return l, nil
}

// loopBackingDev turns the kernel's "huge" device number of lo_device into the one of stat(2).
func loopBackingDev(d uint64) uint64 { return unix.Mkdev(hugeMajor(d), hugeMinor(d)) }

// loopName is for the file name field of the status, which tools show where they cannot see sysfs. It has room for 63 bytes: the end says most.
func loopName(path string) (name [64]uint8) {
	if len(path) > 63 {
		path = "*" + path[len(path)-62:]
	}
	copy(name[:], path)
	return name
}

// Hold opens the device and makes sure that it is still bound to the same file; then it stays so until the descriptor is closed. ErrNotExist if it is
// not.
func (l Loop) Hold() (*os.File, error) {
	f, err := open(l.Path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err == nil {
		var now Loop
		if now, err = loopStatus(f); err == nil && now.isSame(l) {
			return f, nil
		}
		err = errors.Join(err, f.Close())
	}
	if err == nil || isGone(err) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.ENODEV) {
		return nil, fmt.Errorf("open %s: it is not bound to %s any more: %w", l.Path, l.File, ErrNotExist)
	}
	return nil, err
}

// LoopSetCapacity makes the device as large as its file is by now. ErrNotExist if it is not bound to that file any more.
func LoopSetCapacity(l Loop) error {
	f, err := l.Hold()
	if err != nil {
		return err
	}
	defer f.Close()
	err = control(f, func(fd int) error { return unix.IoctlSetInt(fd, unix.LOOP_SET_CAPACITY, 0) })
	if err != nil {
		return fmt.Errorf("enlarge %s: %w", l.Path, err)
	}
	return nil
}

func loopPath(number int) string { return "/dev/loop" + strconv.Itoa(number) }
