// SPDX-License-Identifier: Apache-2.0

package header

import (
	"errors"
	"fmt"
	"io"
)

// scanSize is what a header with 64 KiB of metadata occupies, both copies together. That much is read at once: it is one request to the device, and the
// two copies are of one moment as far as that is possible.
const scanSize = 2 * 64 << 10

// A window gives parts of a device, without copying those in its first scanSize bytes.
type window struct {
	r     io.ReaderAt
	size  int64
	start []byte
}

func newWindow(r io.ReaderAt, size int64) *window {
	w := &window{r: r, size: max(size, 0)}
	// If one sector of it is bad, the parts are read one by one, and one copy may still be good.
	if start, err := w.read(0, min(scanSize, w.size)); err == nil {
		w.start = start
	}
	return w
}

// bytes returns n bytes at offset. Less than n before the end count as missing magic, since a copy cannot be there. The bytes are not to be changed.
func (w *window) bytes(offset, n int64) ([]byte, error) {
	if offset > w.size-n {
		return nil, fmt.Errorf("only %d bytes: %w", w.size, ErrMagic)
	}
	if end := offset + n; end <= int64(len(w.start)) {
		return w.start[offset:end:end], nil
	}
	return w.read(offset, n)
}

func (w *window) read(offset, n int64) ([]byte, error) {
	buf := make([]byte, n)
	got, err := w.r.ReadAt(buf, offset)
	if int64(got) == n {
		return buf, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return nil, err
}
