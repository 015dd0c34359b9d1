// SPDX-License-Identifier: Apache-2.0

package backing

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/sys/blkid"
)

// Copies of btrfs's superblock that lie in the middle.
var btrfsMirrors = []int64{64 << 20, 256 << 30}

// Wipe zeroes everything by which anybody recognises what a device holds: the first 16 MiB, which format overwrites too (both headers of LUKS, partition
// tables, superblocks), the last MiB (the second partition table, labels of arrays), and the copies of btrfs's superblock. Then it reads them back, past
// the page cache, and asks blkid. What still is there is a *NotBlankError. It is repeated after a crash.
func Wipe(ctx context.Context, dev string) error {
	if err := wipe(ctx, dev); err != nil {
		return fmt.Errorf("wipe %s: %w", dev, err)
	}
	return nil
}

func wipe(ctx context.Context, dev string) (err error) {
	d, err := sys.OpenDirect(dev, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	zeros := make([]byte, blankChunk)
	for _, r := range edges(d.Size()) {
		end := r[1] &^ (BlockSize - 1)
		for at := r[0]; at < end; at += blankChunk {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if _, err := d.WriteAt(zeros[:min(blankChunk, end-at)], at); err != nil {
				return err
			}
		}
	}
	if err := errors.Join(d.Sync(), zeroRest(dev, d.Size())); err != nil {
		return err
	}
	return blankEdges(ctx, d, dev)
}

// zeroRest zeroes what follows the last whole block; a partition may end anywhere.
func zeroRest(dev string, size int64) error {
	rest := size % BlockSize
	if rest == 0 {
		return nil
	}
	f, err := os.OpenFile(dev, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, rest), size-rest)
	return errors.Join(err, f.Sync(), f.Close())
}

// edges are the parts of a device of that size in which signatures lie.
func edges(size int64) [][2]int64 {
	if size <= HeaderSize+blankTail {
		return [][2]int64{{0, size}}
	}
	tail := (size - blankTail) &^ (BlockSize - 1)
	ranges := [][2]int64{{0, HeaderSize}}
	for _, at := range btrfsMirrors {
		if at+BlockSize <= tail {
			ranges = append(ranges, [2]int64{at, at + BlockSize})
		}
	}
	return append(ranges, [2]int64{tail, size})
}

// blankEdges returns nil if nothing is recognised on the device.
func blankEdges(ctx context.Context, d *sys.DirectFile, dev string) error {
	found, err := blkid.Probe(ctx, d)
	if err != nil {
		return err
	}
	if found != nil {
		return &NotBlankError{Path: dev, What: found.String(), Offset: -1}
	}
	for _, r := range edges(d.Size()) {
		if err := readZeros(ctx, d, dev, r[0], r[1]); err != nil {
			return err
		}
	}
	return nil
}
