// SPDX-License-Identifier: Apache-2.0

// Package backing keeps the ciphertext of a volume: an image file on a loop device. It knows nothing of LUKS but the size of its header.
//
// There is one door to an image. Attach takes a flock on the very descriptor that it gives to the loop device, and the kernel keeps it for as long as
// the device is bound; whoever comes by another way waits or fails, instead of mounting one file system twice.
package backing

import (
	"errors"
	"fmt"
	"math"
)

// Alloc says when an image gets its space.
type Alloc string

const (
	// Full reserves all blocks at creation. Writes into the volume cannot run out of space then.
	Full Alloc = "full"
	// Sparse takes blocks when they are written, and loses writes when the disk is full.
	Sparse Alloc = "sparse"
)

const (
	// HeaderSize is what LUKS takes at the start of a backing, in bytes; the data begins there.
	HeaderSize = 16 << 20
	// BlockSize is the logical block size of attached images in bytes, and so the granularity of their size.
	BlockSize = 4096
)

// ErrInUse means that somebody uses the backing: of an image, a loop device that is not this package's, or a lock on it.
var ErrInUse = errors.New("it is in use")

// OtherError means that a device is positively not the backing that it should be.
type OtherError struct{ Msg string }

// Error implements error.
func (e *OtherError) Error() string { return e.Msg }

func other(format string, args ...any) error { return &OtherError{fmt.Sprintf(format, args...)} }

// NoSpaceError means that a directory's file system has too little room. Sizes are in bytes.
type NoSpaceError struct {
	Path        string // of the directory that shall hold the image
	Need, Avail int64  // bytes
	Inodes      bool   // it is not bytes but inodes that are missing
}

// Error implements error.
func (e *NoSpaceError) Error() string {
	if e.Inodes {
		return fmt.Sprintf("no space in %s: it has no free inode", e.Path)
	}
	return fmt.Sprintf("no space in %s: %s needed, %s available", e.Path, human(e.Need), human(e.Avail))
}

func human(n int64) string {
	switch {
	case n >= 10<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 10<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d bytes", n)
}

// ImageSize returns the size of the image for a file system of fsSize bytes, header included and rounded up to whole blocks.
func ImageSize(fsSize int64) (int64, error) {
	if fsSize <= 0 || fsSize > math.MaxInt64-HeaderSize-BlockSize {
		return 0, fmt.Errorf("no image can hold a file system of %d bytes", fsSize)
	}
	return (fsSize+BlockSize-1)/BlockSize*BlockSize + HeaderSize, nil
}
