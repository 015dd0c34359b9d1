// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"io/fs"
	"os"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
)

// Storage is everything that a Manager works on. NewStorage makes the real one, volumetest.Fake another; both pass volumetest.Conformance, which is
// the contract in a form that runs.
type Storage struct {
	Files       Files       // records and holders
	Backings    Backings    // where ciphertext lies
	Containers  Containers  // LUKS
	Filesystems Filesystems // on the mappings
	Kernel      Kernel      // its tables
}

// Place says where the ciphertext of a volume lies. It is plain data: nothing is looked up until a Backing of it is asked something.
type Place struct {
	Kind   string      // of backing, such as BackingImage
	Dir    string      // the directory of the volume or tombstone, in which an image lies
	File   string      // name of an image that is not in its place yet; "": the one that it has there
	UUID   string      // of the container; a logical volume has it in its name
	Device string      // path of a device
	ID     sys.BlockID // what a device is known by
	VG     string      // volume group of a logical volume
	Pool   string      // thin pool in it; "": a thick volume
}

// Backings are where ciphertext lies, of whatever kind.
type Backings interface {
	// At names a backing. It touches nothing.
	At(Place) Backing
	// Identify tells what the block device that a path leads to is known by; fs.ErrNotExist if it leads nowhere.
	Identify(path string) (sys.BlockID, error)
}

// Backing is the place of one container: an image with its loop device, or a block device of another kind. fs.ErrNotExist: it is not there.
type Backing interface {
	// Create makes it with room for size bytes of file system and the LUKS header, durable and whole when it returns. One that exists is fs.ErrExist, and
	// is left alone; what an earlier Create that was killed left is made anew, and what failed is gone. No room: *backing.NoSpaceError.
	Create(ctx context.Context, size int64, alloc string) error
	// Size is the room for a file system in it, in bytes.
	Size(ctx context.Context) (int64, error)
	// Room tells how many bytes are promised and not yet taken from what is below, and how many that has left for them. It does no device I/O.
	Room() (missing, left int64, err error)
	// Grow makes it have room for size bytes of file system, and its device as large, while it is used; what has the room stays as it is. When it fails
	// for want of space (*backing.NoSpaceError) nothing has changed. Interrupted, it is to be called again.
	Grow(ctx context.Context, size int64, alloc string) error
	// Attach makes a block device of it, or finds the one that is there. While the attachment is open, and then as long as anything uses the device, the
	// device stays this backing. backing.ErrInUse if somebody else has it.
	Attach(ctx context.Context) (Attachment, error)
	// Rotational tells whether there is a rotating disk below. It does no device I/O.
	Rotational() (bool, error)
	// Detach undoes Attach, as far as there is anything to undo: sys.ErrBusy while something uses it. One that is not there is success.
	Detach(ctx context.Context) error
	// Door is the one path by which the container in it is to be read and written at this moment (an image is not to be touched behind its loop device).
	Door(ctx context.Context) (string, error)
	// Users says in words who keeps it attached; none if nobody does.
	Users() ([]string, error)
	// Is finds out whether a block device of the kernel's tables is this backing: nil if it is, *backing.OtherError if positively not, any other error if
	// that cannot be told. It does no device I/O.
	Is(d sys.Dev) error
	// ProbeBlank returns nil only if the device that Attach gave positively holds nothing: *backing.NotBlankError if it does, any other error if that
	// cannot be told.
	ProbeBlank(ctx context.Context, dev string) error
	// Wipe destroys what the device holds as far as anybody recognises it, so that it then is ready to be formatted, and makes sure that it did. It is for
	// a device whose owner has named it for this.
	Wipe(ctx context.Context, dev string) error
	// Erase destroys the header and all key slots in it, and reads back what it wrote: whatever keys there are open nothing any more. Of a device it
	// destroys every trace. backing.ErrInUse while it is attached.
	Erase(ctx context.Context) (backing.Erased, error)
	// Remove gives its space back, with what a killed Create left, or does nothing if there is none: backing.ErrInUse while it is attached. A device stays
	// as it is.
	Remove(ctx context.Context) error
}

// Attachment is a backing as a block device.
type Attachment interface {
	Dev() string  // such as /dev/loop3
	Close() error // may be called again
}

// Containers are LUKS2 containers and their mappings.
type Containers interface {
	// At names the container on a device or in an image that is not attached. It touches nothing.
	At(path string) Container
	// Foreign is At for a container that somebody else formatted.
	Foreign(path string) Container
	// Close removes a mapping: luks.ErrBusy while something uses it, luks.ErrNotActive if there is none.
	Close(name string) error
}

// Container is one LUKS2 container.
type Container interface {
	keyslot.Container
	// SetFlags writes what later activations by others shall do too.
	SetFlags(luks.Flags) error
	// Open activates the container as /dev/mapper/NAME and checks the kernel's table against what was asked.
	Open(luks.OpenParams) error
	// Forget destroys a slot, though it be the last: then nothing opens the container again, and an open mapping stays as it is.
	Forget(slot int) error
	// Resize makes the mapping that Open made, with the same parameters, as large as its device is by now. sys.ErrNotExist if there is none.
	Resize(luks.OpenParams) error
}

// Filesystems are what is on a mapping.
type Filesystems interface {
	// Make formats the device. It overwrites whatever is there: callers know what they do. Children get the extra files.
	Make(ctx context.Context, dev string, s filesystem.Spec, extra ...*os.File) error
	// Probe tells what file system is on the device; nil only if it positively holds none.
	Probe(ctx context.Context, dev string) (*filesystem.Signature, error)
	// Mount mounts the file system that s describes, and no other, on target: *filesystem.MismatchError otherwise.
	Mount(ctx context.Context, dev, target string, s filesystem.Spec) error
	// Grow makes the file system on dev, which is mounted on target, as large as dev is. Children get the extra files.
	Grow(ctx context.Context, dev, target string, t filesystem.Type, extra ...*os.File) error
	// Trim passes down which blocks of what is mounted on target are unused, and returns how many bytes they are.
	Trim(target string) (int64, error)
	// Unmount takes off what is mounted on target: sys.ErrBusy if it is used, sys.ErrNotExist if nothing is mounted.
	Unmount(ctx context.Context, target string) error
	// MakeData makes the directory that users get, durable when it returns. It may exist already.
	MakeData(mnt string, uid, gid int, mode fs.FileMode) error
	// HasData tells whether MakeData has been there.
	HasData(mnt string) (bool, error)
	// MakeBare makes a mountpoint in which nothing can be written, or finds it. The bool tells whether that holds for root too.
	MakeBare(mnt string) (immutable bool, err error)
	// RemoveBare removes such a mountpoint, if it is there and nothing is mounted on it. Anything in it is an error.
	RemoveBare(mnt string) error
	// Usage tells how full the mounted file system is.
	Usage(path string) (filesystem.Usage, error)
}

// Kernel is what the kernel's tables say. Nothing here waits for a device.
type Kernel interface {
	// Mounts is the mount table of the host.
	Mounts() ([]sys.MountInfo, error)
	// Mappings are all device-mapper devices.
	Mappings() ([]sys.DMDevice, error)
	// BtrfsDevices are the devices of a mounted btrfs; none if no btrfs with that UUID is mounted.
	BtrfsDevices(fsUUID string) ([]sys.Dev, error)
	// FSErrors is how many errors the file system on a mapping has recorded, as far as it counts them (ext4 does): 0 if it does not.
	FSErrors(fstype string, minor uint32) (int, error)
	// Namespaces are all mount namespaces with what is mounted in them. An error means that nobody knows, never that there are none.
	Namespaces() ([]sys.MountNamespace, error)
	// ProcessStart is sys.ProcessStart: fs.ErrNotExist only if the process is positively gone.
	ProcessStart(pid int) (uint64, error)
	// BootID names the current boot.
	BootID() (string, error)
}
