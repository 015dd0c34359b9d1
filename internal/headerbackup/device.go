// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"io"

	"github.com/voluks/voluks/luks"
)

// Device is the container's device or file, past the page cache. Offsets and lengths of writes are multiples of 4096. *luks.Raw is one.
type Device interface {
	io.ReaderAt
	io.WriterAt
	// Size is in bytes.
	Size() int64
	// Sync makes what was written durable.
	Sync() error
	// Close releases the device, and does not sync.
	Close() error
}

// Opener opens the device anew; for reading only, or for both.
type Opener func(write bool) (Device, error)

// Of opens the device of a container.
func Of(c *luks.Container) Opener {
	return func(write bool) (Device, error) {
		r, err := c.Raw(write)
		if err != nil {
			return nil, err // not the nil pointer of another type
		}
		return r, nil
	}
}
