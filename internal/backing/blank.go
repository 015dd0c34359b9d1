// SPDX-License-Identifier: Apache-2.0

package backing

import (
	"bytes"
	"context"
	"fmt"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/sys/blkid"
)

// NotBlankError means that a device that was to be formatted has content.
type NotBlankError struct {
	Path   string // of the device or file that was probed
	What   string // what was recognised, or "data"
	Offset int64  // of the first byte that is not zero, or -1
}

// Error implements error.
func (e *NotBlankError) Error() string {
	if e.Offset < 0 {
		return fmt.Sprintf("%s is not blank: it has %s", e.Path, e.What)
	}
	return fmt.Sprintf("%s is not blank: it has %s at byte %d", e.Path, e.What, e.Offset)
}

// What ProbeBlank reads, in bytes.
const (
	blankTail    = 1 << 20
	blankSample  = 64 << 10
	blankSamples = 64
	blankChunk   = 1 << 20
)

// ProbeBlank returns nil only if the device (or image file) at dev is positively blank: blkid recognises nothing, and all of the first 16 MiB (what
// formatting overwrites), the last MiB and 64 samples between them could be read, past the page cache, and are zero. Content is a *NotBlankError.
// Whatever else happens, a tool that fails, a read that fails or ends early, a device that went away, is another error: never blank.
//
// It cannot tell a blank device from one that answers every read with zeros because it is broken. That is why formatting also needs a record that
// says that this volume has never been formatted.
func ProbeBlank(ctx context.Context, dev string) error {
	d, err := sys.OpenDirect(dev, false)
	if err != nil {
		return fmt.Errorf("look whether device is blank: %w", err)
	}
	defer d.Close()
	found, err := blkid.Probe(ctx, d)
	if err != nil {
		return fmt.Errorf("look whether device is blank: %w", err)
	}
	if found != nil {
		return fmt.Errorf("look whether device is blank: %w", &NotBlankError{Path: dev, What: found.String(), Offset: -1})
	}
	for _, r := range blankRanges(d.Size()) {
		if err := readZeros(ctx, d, dev, r[0], r[1]); err != nil {
			return fmt.Errorf("look whether device is blank: %w", err)
		}
	}
	return nil
}

// blankRanges returns what to read of a device of that size: start and end, ascending and without overlap.
func blankRanges(size int64) [][2]int64 {
	if size <= HeaderSize+blankTail+blankSamples*blankSample {
		return [][2]int64{{0, size}}
	}
	ranges := [][2]int64{{0, HeaderSize}}
	middle := size - HeaderSize - blankTail
	for n := range int64(blankSamples) {
		// One sample in the middle of each of 64 equal parts.
		at := HeaderSize + middle/blankSamples*n + (middle/blankSamples-blankSample)/2
		ranges = append(ranges, [2]int64{at, at + blankSample})
	}
	return append(ranges, [2]int64{size - blankTail, size})
}

func readZeros(ctx context.Context, d *sys.DirectFile, dev string, from, to int64) error {
	buf := make([]byte, min(to-from, blankChunk))
	zeros := make([]byte, len(buf))
	for from < to {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b := buf[:min(int64(len(buf)), to-from)]
		if _, err := d.ReadAt(b, from); err != nil {
			return err
		}
		if !bytes.Equal(b, zeros[:len(b)]) {
			n := bytes.IndexFunc(b, func(c rune) bool { return c != 0 })
			return &NotBlankError{Path: dev, What: "data", Offset: from + int64(n)}
		}
		from += int64(len(b))
	}
	return nil
}
