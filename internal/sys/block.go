// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Dev is a block device as sysfs knows it.
type Dev struct {
	Major, Minor uint32 // of a block device
	Name         string // the kernel's, for example dm-3, loop0, sda1
}

// String returns major:minor.
func (d Dev) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// DevOf returns the device numbers of the block device at path, following symbolic links. Anything but a block device is an error.
func DevOf(path string) (major, minor uint32, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, 0, fmt.Errorf("%s: not a block device", path)
	}
	return unix.Major(st.Rdev), unix.Minor(st.Rdev), nil
}

// BlockSlaves returns the devices that a block device directly lies on: of a device-mapper or md device its slaves, of a partition its disk, of
// anything else none. It reads sysfs alone. A device that does not exist gives an error that wraps os.ErrNotExist.
func BlockSlaves(major, minor uint32) ([]Dev, error) { return sysDevs("/sys", major, minor, "slaves") }

// BlockHolders returns the block devices that directly lie on a block device: the reverse of BlockSlaves, without partitions.
func BlockHolders(major, minor uint32) ([]Dev, error) {
	return sysDevs("/sys", major, minor, "holders")
}

func sysDevs(root string, major, minor uint32, list string) ([]Dev, error) {
	dir := filepath.Join(root, "dev/block", fmt.Sprintf("%d:%d", major, minor))
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, fmt.Errorf("%s of block device %d:%d: %w", list, major, minor, err)
	}
	if list == "slaves" {
		if _, err := os.Stat(filepath.Join(real, "partition")); err == nil {
			disk, err := readDev(filepath.Dir(real))
			if err != nil {
				return nil, fmt.Errorf("disk of partition %d:%d: %w", major, minor, err)
			}
			return []Dev{disk}, nil
		}
	}
	entries, err := os.ReadDir(filepath.Join(real, list))
	if errors.Is(err, os.ErrNotExist) {
		// The directory is there for every whole disk; a device that went away in between must not look like one without slaves.
		if _, err := os.Stat(real); err != nil {
			return nil, fmt.Errorf("%s of block device %d:%d: %w", list, major, minor, err)
		}
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s of block device %d:%d: %w", list, major, minor, err)
	}
	var devs []Dev
	for _, e := range entries {
		d, err := readDev(filepath.Join(real, list, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("%s of block device %d:%d: %w", list, major, minor, err)
		}
		devs = append(devs, d)
	}
	return devs, nil
}

// readDev reads the dev file of a device's sysfs directory.
func readDev(dir string) (Dev, error) {
	b, err := os.ReadFile(filepath.Join(dir, "dev"))
	if err != nil {
		return Dev{}, err
	}
	major, minor, err := parseDev(strings.TrimSpace(string(b)))
	if err != nil {
		return Dev{}, err
	}
	return Dev{Major: major, Minor: minor, Name: filepath.Base(dir)}, nil
}

func parseDev(s string) (major, minor uint32, err error) {
	a, b, ok := strings.Cut(s, ":")
	x, err1 := strconv.ParseUint(a, 10, 32)
	y, err2 := strconv.ParseUint(b, 10, 32)
	if !ok || err1 != nil || err2 != nil {
		return 0, 0, fmt.Errorf("no device number: %q", s)
	}
	return uint32(x), uint32(y), nil
}

// BlockDeviceSize returns the size of the block device at path in bytes.
func BlockDeviceSize(path string) (int64, error) {
	f, err := open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return deviceSize(f)
}

func deviceSize(f *os.File) (int64, error) {
	var size uint64
	err := control(f, func(fd int) error { return ioctl(fd, unix.BLKGETSIZE64, unsafe.Pointer(&size)) })
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", f.Name(), err)
	}
	return int64(size), nil
}

// LogicalBlockSize returns the smallest unit, in bytes, that the block device at path can address.
func LogicalBlockSize(path string) (int, error) {
	f, err := open(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	return logicalBlockSize(f)
}

func logicalBlockSize(f *os.File) (int, error) {
	var size uint32 // the kernel writes an int
	err := control(f, func(fd int) error { return ioctl(fd, unix.BLKSSZGET, unsafe.Pointer(&size)) })
	if err != nil {
		return 0, fmt.Errorf("logical block size of %s: %w", f.Name(), err)
	}
	return int(size), nil
}
