// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// DMTarget is one line of a device-mapper table. Start and Length are in sectors of 512 bytes. A literal key in Params (of a mapping that was made
// without the kernel keyring) is replaced by "-".
type DMTarget struct {
	Start, Length uint64 // 512-byte sectors
	Type, Params  string // as in dmsetup table
}

// DMDevice is a device-mapper device with its live table.
type DMDevice struct {
	Name, UUID   string     // UUID as device-mapper has it, not of what is on the device
	Major, Minor uint32     // of its block device
	OpenCount    int        // users that the kernel counts, mounts among them
	Suspended    bool       // I/O waits until it is resumed
	ReadOnly     bool       // it takes no writes
	Targets      []DMTarget // empty if no table is loaded
}

// DMByName returns the device of that name. ErrNotExist if there is none, ErrNoDeviceMapper if there can be none. It never waits for I/O, a
// suspended device included.
func DMByName(name string) (*DMDevice, error) {
	if len(name) >= unix.DM_NAME_LEN || name == "" {
		return nil, fmt.Errorf("device-mapper name %q: must have 1 to %d bytes", name, unix.DM_NAME_LEN-1)
	}
	c, err := openDM()
	if err != nil {
		return nil, fmt.Errorf("look up device-mapper device %q: %w", name, err)
	}
	defer c.Close()
	d, err := dmTable(c, func(h *unix.DmIoctl) { copy(h.Name[:], name) })
	if err != nil {
		return nil, fmt.Errorf("look up device-mapper device %q: %w", name, err)
	}
	return d, nil
}

// DMByDev returns the device with that number; errors are those of DMByName.
func DMByDev(major, minor uint32) (*DMDevice, error) {
	c, err := openDM()
	if err != nil {
		return nil, fmt.Errorf("look up device-mapper device %d:%d: %w", major, minor, err)
	}
	defer c.Close()
	d, err := dmTable(c, func(h *unix.DmIoctl) { h.Dev = hugeDev(major, minor) })
	if err != nil {
		return nil, fmt.Errorf("look up device-mapper device %d:%d: %w", major, minor, err)
	}
	return d, nil
}

// DMByUUIDPrefix returns the devices whose device-mapper UUID starts with prefix. The UUID, unlike the name, cannot be changed once it is set.
func DMByUUIDPrefix(prefix string) ([]DMDevice, error) {
	all, err := DMList()
	if err != nil {
		return nil, err
	}
	var found []DMDevice
	for _, d := range all {
		if strings.HasPrefix(d.UUID, prefix) {
			found = append(found, d)
		}
	}
	return found, nil
}

// DMList returns all devices. One that vanishes meanwhile is left out.
func DMList() ([]DMDevice, error) {
	c, err := openDM()
	if err != nil {
		return nil, fmt.Errorf("list device-mapper devices: %w", err)
	}
	defer c.Close()
	buf, _, err := dmCall(c, unix.DM_LIST_DEVICES, func(*unix.DmIoctl) {})
	if err != nil {
		return nil, fmt.Errorf("list device-mapper devices: %w", err)
	}
	devs, err := parseDMNames(buf)
	if err != nil {
		return nil, fmt.Errorf("list device-mapper devices: %w", err)
	}
	var all []DMDevice
	for _, dev := range devs {
		d, err := dmTable(c, func(h *unix.DmIoctl) { h.Dev = dev })
		if errors.Is(err, ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list device-mapper devices: %w", err)
		}
		all = append(all, *d)
	}
	return all, nil
}

func openDM() (*os.File, error) {
	f, err := open("/dev/mapper/control", unix.O_RDWR, 0)
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("%w: %w", err, ErrNoDeviceMapper)
	}
	return nil, err
}

// dmTable asks for the live table. DM_NOFLUSH: a status request without it waits for the I/O of a target (dm-thin does that) and so for ever on a
// suspended pool. DM_SECURE_DATA: the kernel wipes its copy, which has the key of a mapping that does not use the keyring.
func dmTable(c *os.File, pick func(*unix.DmIoctl)) (*DMDevice, error) {
	buf, h, err := dmCall(c, unix.DM_TABLE_STATUS, func(h *unix.DmIoctl) {
		h.Flags |= unix.DM_STATUS_TABLE_FLAG | unix.DM_NOFLUSH_FLAG | unix.DM_SECURE_DATA_FLAG
		pick(h)
	})
	defer clear(buf)
	if err != nil {
		return nil, err
	}
	targets, err := parseDMTargets(buf, h.Target_count)
	if err != nil {
		return nil, err
	}
	return &DMDevice{
		Name: cstring(h.Name[:]), UUID: cstring(h.Uuid[:]), Major: hugeMajor(h.Dev), Minor: hugeMinor(h.Dev), OpenCount: int(h.Open_count),
		Suspended: h.Flags&unix.DM_SUSPEND_FLAG != 0, ReadOnly: h.Flags&unix.DM_READONLY_FLAG != 0, Targets: targets,
	}, nil
}

// dmCall does one request with a growing buffer and returns the part after the header. The buffer may hold a key: callers clear it.
func dmCall(c *os.File, req uint, fill func(*unix.DmIoctl)) ([]byte, unix.DmIoctl, error) {
	const header = unix.SizeofDmIoctl
	for size := 16 << 10; ; size *= 4 {
		// Backed by uint64 so that the header in front is aligned.
		words := make([]uint64, size/8)
		buf := unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), size)
		h := (*unix.DmIoctl)(unsafe.Pointer(&words[0]))
		// The oldest version that has all the requests used here; the kernel refuses another major number alone.
		h.Version = [3]uint32{4, 0, 0}
		h.Data_size = uint32(size)
		h.Data_start = header
		fill(h)
		err := control(c, func(fd int) error {
			return retry(func() error { return ioctl(fd, req, unsafe.Pointer(h)) })
		})
		switch {
		case errors.Is(err, unix.ENXIO):
			return nil, *h, ErrNotExist
		case err != nil:
			clear(buf)
			return nil, *h, err
		case h.Flags&unix.DM_BUFFER_FULL_FLAG == 0:
			start, end := h.Data_start, h.Data_size
			if start < header || start > uint32(size) || end > uint32(size) {
				clear(buf)
				return nil, *h, fmt.Errorf("the kernel's answer is out of bounds (%d to %d of %d)", start, end, size)
			}
			// An answer without data, as of a device without a table, ends before its start.
			return buf[start:max(start, end)], *h, nil
		}
		clear(buf)
		if size > 64<<20 {
			return nil, *h, fmt.Errorf("the kernel's answer does not fit into %d bytes", size)
		}
	}
}

// Device numbers in this interface are the kernel's "huge" encoding (new_encode_dev for 32 bits): 12 bits of major amid 20 of minor.
func hugeDev(major, minor uint32) uint64 {
	return uint64(minor&0xff | major<<8 | (minor&^0xff)<<12)
}
func hugeMajor(d uint64) uint32 { return uint32(d>>8) & 0xfff }
func hugeMinor(d uint64) uint32 { return uint32(d)&0xff | uint32(d>>12)&0xfff00 }
