// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"io/fs"
	"os"

	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
)

// imageSectorSize is the sector size of a container in an image: its loop device has blocks of that size.
const imageSectorSize = 4096

// Storage is everything that a Manager works on. NewStorage makes the real one, volumetest.Fake another; both pass volumetest.Conformance, which is
// the contract in a form that runs.
type Storage struct {
	Files       Files
	Images      Images
	Containers  Containers
	Filesystems Filesystems
	Kernel      Kernel
}

// Images are the backings: files with ciphertext, and the loop devices over them.
type Images interface {
	// Create makes the file with room for size bytes of file system and the LUKS header, durable when it returns. A file that exists is an error, and
	// what failed is gone. No room: *backing.NoSpaceError.
	Create(ctx context.Context, path string, size int64, alloc string) error
	// Size is the room for a file system in the file, in bytes; fs.ErrNotExist if there is none.
	Size(path string) (int64, error)
	// Room tells of a file how many bytes are promised and not yet taken from the disk, and how many the disk has left for them.
	Room(path string) (missing, left int64, err error)
	// Attach puts a loop device over the file, or finds the one that is there. While the attachment is open, and then as long as anything uses the
	// device, the device stays; after that it goes by itself. backing.ErrInUse if somebody else has the file.
	Attach(ctx context.Context, path string) (Attachment, error)
	// Detach makes sure that no loop device is over the file: sys.ErrBusy while something uses it.
	Detach(ctx context.Context, path string) error
	// ProbeBlank returns nil only if the device positively holds nothing: *backing.NotBlankError if it does, any other error if that cannot be told.
	ProbeBlank(ctx context.Context, dev string) error
	// Remove unlinks the file, or nothing if there is none: backing.ErrInUse while a loop device is over it.
	Remove(ctx context.Context, path string) error
}

// Attachment is an image on a loop device.
type Attachment interface {
	Dev() string  // such as /dev/loop3
	Close() error // may be called again
}

// Containers are LUKS2 containers and their mappings.
type Containers interface {
	// At names the container on a device or in an image that is not attached. It touches nothing.
	At(path string) Container
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
}

// Filesystems are what is on a mapping.
type Filesystems interface {
	// Make formats the device. It overwrites whatever is there: callers know what they do. Children get the extra files.
	Make(ctx context.Context, dev string, s filesystem.Spec, extra ...*os.File) error
	// Probe tells what file system is on the device; nil only if it positively holds none.
	Probe(ctx context.Context, dev string) (*filesystem.Signature, error)
	// Mount mounts the file system that s describes, and no other, on target: *filesystem.MismatchError otherwise.
	Mount(ctx context.Context, dev, target string, s filesystem.Spec) error
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
	// Loop describes a loop device; sys.ErrNotExist if the device is none, or bound to nothing.
	Loop(major, minor uint32) (sys.Loop, error)
	// LoopsOf are the loop devices over a file, whoever made them; fs.ErrNotExist if there is no such file.
	LoopsOf(path string) ([]sys.Loop, error)
	// FileID returns device and inode number of a file.
	FileID(path string) (dev, ino uint64, err error)
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
