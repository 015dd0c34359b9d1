// SPDX-License-Identifier: Apache-2.0

package backing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/voluks/voluks/internal/sys"
)

// Device is a block device that exists already, known by a stable name and by what the kernel says of the medium. A path can lead to another device
// after a boot, or after a disk was pulled, so the name alone opens nothing (F11).
type Device struct {
	path string
	id   sys.BlockID
	uuid string
}

// DeviceAt returns the device at path, which must be the one that id describes, for the container of that UUID.
func DeviceAt(path string, id sys.BlockID, uuid string) *Device { return &Device{path, id, uuid} }

// Identify tells what the block device that path leads to is known by. fs.ErrNotExist if it leads nowhere.
func Identify(path string) (sys.BlockID, error) {
	major, minor, err := sys.DevOf(path)
	if err != nil {
		return sys.BlockID{}, err
	}
	return sys.IdentifyBlock(major, minor)
}

// same compares what a device is known by now with what it was when the volume was made. A disk with a name of its own may have grown meanwhile, as
// those of clouds do; without one, the size is all that it has.
func same(now, then sys.BlockID) error {
	want := then
	if len(then.Names()) > 0 {
		want.Size = now.Size
	}
	want.Block = now.Block
	switch {
	case now != want:
		return other("it has %s; the volume's has %s", now, then)
	case now.Block > then.Block:
		return other("it addresses blocks of %d bytes, and did of %d", now.Block, then.Block)
	}
	return nil
}

// find returns node and numbers of the device after it has made sure that it is the right one.
func (d *Device) find() (node string, dev sys.Dev, id sys.BlockID, err error) {
	if node, err = filepath.EvalSymlinks(d.path); err != nil {
		return "", dev, id, err
	}
	if dev.Major, dev.Minor, err = sys.DevOf(node); err != nil {
		return "", dev, id, err
	}
	if id, err = sys.IdentifyBlock(dev.Major, dev.Minor); err != nil {
		return "", dev, id, err
	}
	if err := same(id, d.id); err != nil {
		return "", dev, id, fmt.Errorf("%s leads to another device: %w", d.path, err)
	}
	return node, dev, id, nil
}

// Create is for devices that are not there.
func (d *Device) Create(context.Context, int64, string) error {
	return fmt.Errorf("device %s does not exist, and is not made by voluks: %w", d.path, os.ErrNotExist)
}

// Size is the room behind the header, in bytes.
func (d *Device) Size(context.Context) (int64, error) {
	_, _, id, err := d.find()
	return id.Size - HeaderSize, err
}

// Room is for what takes space as it fills.
func (d *Device) Room() (missing, left int64, err error) { return 0, 0, nil }

// Held keeps a block device open, so that its numbers are not given to another one.
type Held struct {
	node string
	file *os.File
}

// Dev is the path of its node.
func (h *Held) Dev() string { return h.node }

// Close lets go. It may be called again.
func (h *Held) Close() error {
	if h.file == nil {
		return nil
	}
	err := h.file.Close()
	h.file = nil
	return err
}

// Attach opens the device and keeps it open. ErrInUse if it is mounted, or part of something else than our mapping; an *OtherError if the path leads
// to another device.
func (d *Device) Attach(context.Context) (*Held, error) {
	node, dev, _, err := d.find()
	if err != nil {
		return nil, fmt.Errorf("attach device: %w", err)
	}
	return hold(node, dev, d.uuid)
}

// hold opens a block device that was found to be the right one, and looks again whether it still is. Only the mapping of the container may have it.
func hold(node string, dev sys.Dev, uuid string) (*Held, error) {
	// An exclusive open succeeds only if no mount, mapping, array or swap has it. It is not kept: our own mapping is such a user.
	exclusive, err := os.OpenFile(node, os.O_RDONLY|syscall.O_EXCL|syscall.O_NONBLOCK, 0)
	if err == nil {
		err = exclusive.Close()
	} else if errors.Is(err, syscall.EBUSY) {
		err = nil
		if holders, err2 := foreign(dev, uuid); err2 != nil || len(holders) > 0 {
			err = fmt.Errorf("attach %s: used by %s: %w", node, strings.Join(holders, ", "), errors.Join(err2, ErrInUse))
		}
	}
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(node, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if major, minor, err := sys.DevOf(fmt.Sprintf("/proc/self/fd/%d", f.Fd())); err != nil || major != dev.Major || minor != dev.Minor {
		return nil, errors.Join(err, f.Close(), other("%s is device %d:%d by now", node, major, minor))
	}
	return &Held{node, f}, nil
}

// foreign names what has a device and is no mapping of the container. A mount or another program leaves no name in sysfs.
func foreign(dev sys.Dev, uuid string) ([]string, error) {
	holders, err := sys.BlockHolders(dev.Major, dev.Minor)
	if err != nil {
		return nil, err
	}
	if len(holders) == 0 {
		return []string{"a mount, or another program"}, nil
	}
	var names []string
	for _, h := range holders {
		d, err := sys.DMByDev(h.Major, h.Minor)
		switch {
		case errors.Is(err, sys.ErrNotExist): // gone again, or no device-mapper device
			names = append(names, h.Name)
		case err != nil:
			return nil, err
		case !strings.HasPrefix(d.UUID, "CRYPT-LUKS2-"+strings.ReplaceAll(uuid, "-", "")+"-"):
			names = append(names, d.Name)
		}
	}
	return names, nil
}

// Rotational tells whether the device lies on a rotating disk.
func (d *Device) Rotational() (bool, error) {
	_, dev, _, err := d.find()
	if err != nil {
		return false, err
	}
	return sys.Rotational(dev.Major, dev.Minor)
}

// Detach has nothing to undo.
func (d *Device) Detach(context.Context) error { return nil }

// Door is the path of the device's node.
func (d *Device) Door(context.Context) (string, error) {
	node, _, _, err := d.find()
	return node, err
}

// Users names what lies on the device.
func (d *Device) Users() ([]string, error) {
	_, dev, _, err := d.find()
	if err != nil {
		return nil, err
	}
	return usersOf(dev)
}

func usersOf(dev sys.Dev) ([]string, error) {
	holders, err := sys.BlockHolders(dev.Major, dev.Minor)
	var users []string
	for _, h := range holders {
		users = append(users, "its device is used by "+h.Name)
	}
	return users, err
}

// Is tells whether a block device is this one: by what it is known by, and if that is no more than its size, by the path too.
func (d *Device) Is(dev sys.Dev) error {
	id, err := sys.IdentifyBlock(dev.Major, dev.Minor)
	if errors.Is(err, os.ErrNotExist) {
		return other("the device is gone; it may have been pulled")
	}
	if err != nil {
		return err
	}
	if err := same(id, d.id); err != nil || len(d.id.Names()) > 0 {
		return err
	}
	major, minor, err := sys.DevOf(d.path)
	if err == nil && (major != dev.Major || minor != dev.Minor) {
		err = other("%s leads to device %d:%d", d.path, major, minor)
	}
	return err
}

// ProbeBlank is the function of that name.
func (d *Device) ProbeBlank(ctx context.Context, dev string) error { return ProbeBlank(ctx, dev) }

// Wipe is the function of that name.
func (d *Device) Wipe(ctx context.Context, dev string) error { return Wipe(ctx, dev) }

// Remove leaves the device as it is: what is on it is nobody's to destroy but by name.
func (d *Device) Remove(context.Context) error { return nil }
