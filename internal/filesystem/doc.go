// SPDX-License-Identifier: Apache-2.0

// Package filesystem makes, recognises, mounts and unmounts the file system in a volume. What users may choose is a list of names and values: an
// external journal or log would put plaintext outside of the volume, and much else would fail late or lose data.
package filesystem

import (
	"errors"
	"fmt"
	"slices"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/sys/tool"
)

// Type is a kind of file system.
type Type string

// The types that voluks knows.
const (
	Ext4  Type = "ext4"
	XFS   Type = "xfs"
	Btrfs Type = "btrfs"
)

// Types lists the types that voluks knows.
func Types() []Type { return []Type{Ext4, XFS, Btrfs} }

// Spec says what file system to make and how to mount it.
type Spec struct {
	Type  Type     // of the file system
	UUID  string   // given to mkfs, expected by Mount; required by Make
	Label string   // at most 16 bytes for ext4, 12 for xfs, 255 for btrfs; may be empty
	Mkfs  []string // from ParseMkfs
	Mount []string // from ParseMount
	// Discard passes on which blocks are unused, at mkfs (but btrfs) and while mounted. Without it neither does, whatever the defaults are.
	Discard bool
	// Overwrite lets Make destroy what is recognised on the device. It belongs where the device was encrypted with a new key in the same
	// transaction, so that what is seen there is random.
	Overwrite bool
}

// ErrNoTool means that a program is not installed. It is used by pointer.
type ErrNoTool = tool.MissingError

// ErrBusy is sys.ErrBusy: somebody uses the file system.
var ErrBusy = sys.ErrBusy

// ErrMounted means that something is mounted where it should not be.
var ErrMounted = errors.New("something is mounted there")

// SizeError means that a device is too small for a file system. Sizes are in bytes.
type SizeError struct {
	Type      Type  // of the file system
	Size, Min int64 // bytes
}

// Error implements error.
func (e *SizeError) Error() string {
	return fmt.Sprintf("%s needs at least %d MiB, and the device has %.1f MiB", e.Type, (e.Min+1<<20-1)>>20, float64(e.Size)/(1<<20))
}

// SignatureError means that a device to be formatted holds something.
type SignatureError struct {
	Device string    // path
	Found  Signature // what is on it
}

// Error implements error.
func (e *SignatureError) Error() string {
	return fmt.Sprintf("%s holds %s already", e.Device, e.Found.Type)
}

// MismatchError means that a device does not hold the file system that it should.
type MismatchError struct {
	Device, Field, Got, Want string // Field is "type" or "UUID"
}

// Error implements error.
func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s: %s is %q and should be %q", e.Device, e.Field, e.Got, e.Want)
}

// MinSize returns the smallest size in bytes that a file system of that type works with; 0 for an unknown type. ext4: with a journal of its usual
// minimum. xfs: what mkfs.xfs insists on since version 5.19. btrfs: what mkfs.btrfs insists on with its default profiles.
func MinSize(t Type) int64 {
	switch t {
	case Ext4:
		return 16 << 20
	case XFS:
		return 300 << 20
	case Btrfs:
		return 109 << 20
	}
	return 0
}

func maxLabel(t Type) int {
	switch t {
	case Ext4:
		return 16
	case XFS:
		return 12
	}
	return 255
}

func (t Type) check() error {
	if !slices.Contains(Types(), t) {
		return fmt.Errorf("file system %q: must be one of %v", string(t), Types())
	}
	return nil
}
