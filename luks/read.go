// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks/header"
)

// Header reads both copies of the header past the page cache, without libcryptsetup and without writing anything. It may wait for the device. A copy
// whose checksum is wrong is read again for a moment, since somebody may be writing it. Header.Damage then tells of a copy that stays bad; without a good one
// the error is a *header.DamagedError, header.ErrNotLUKS, header.ErrLUKS1, or a read error.
func (c *Container) Header() (*header.Header, error) {
	f, err := sys.OpenDirect(c.path, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h, _, err := readHeader(f, time.Sleep)
	return h, err
}

// Pauses before a damaged header is read again. A writer needs a few milliseconds for both copies.
var pauses = []time.Duration{2 * time.Millisecond, 10 * time.Millisecond, 50 * time.Millisecond, 0}

// readHeader also returns the first bytes of the device as they were for the reader.
func readHeader(f *sys.DirectFile, sleep func(time.Duration)) (*header.Header, []byte, error) {
	var last []byte
	for _, pause := range pauses {
		start := &front{f: f}
		h, err := header.Read(start, f.Size())
		torn := errors.Is(err, header.ErrDamaged) || err == nil && h.Damage() != nil
		if !torn || pause == 0 {
			return h, start.buf, err
		}
		if last != nil && bytes.Equal(last, start.buf) {
			return h, start.buf, err // nobody is writing
		}
		last = start.buf
		sleep(pause)
	}
	panic("unreachable")
}

// front reads the part that holds a header of the usual size once, so that both copies are of one moment as far as possible, and costs one request.
type front struct {
	f   *sys.DirectFile
	buf []byte
}

func (r *front) ReadAt(p []byte, off int64) (int, error) {
	if r.buf == nil {
		r.buf = make([]byte, max(0, min(header.ScanSize, r.f.Size())))
		if _, err := r.f.ReadAt(r.buf, 0); err != nil && !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("read the header: %w", err)
		}
	}
	if off >= 0 && off+int64(len(p)) <= int64(len(r.buf)) {
		return copy(p, r.buf[off:]), nil
	}
	return r.f.ReadAt(p, off)
}
