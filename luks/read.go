// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"errors"
	"time"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks/header"
)

// Header reads both copies of the header past the page cache, without libcryptsetup and without writing anything. It may wait for the device. A header
// with a bad copy is read again for a moment, since somebody may be writing it. Header.Damage then tells of a copy that stays bad; without a good one
// the error is a *header.DamagedError, header.ErrNotLUKS, header.ErrLUKS1, or a read error.
func (c *Container) Header() (*header.Header, error) {
	f, err := sys.OpenDirect(c.path, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readHeader(f, time.Sleep)
}

func readHeader(f *sys.DirectFile, sleep func(time.Duration)) (*header.Header, error) {
	// A writer needs a few milliseconds for both copies.
	for _, pause := range []time.Duration{2 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond} {
		h, err := header.Read(f, f.Size())
		if torn := errors.Is(err, header.ErrDamaged) || err == nil && h.Damage() != nil; !torn {
			return h, err
		}
		sleep(pause)
	}
	return header.Read(f, f.Size())
}
