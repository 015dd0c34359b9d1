// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/voluks/voluks/internal/sys"
)

// block is what direct reads are multiples of.
const block = 4096

// chunk is small enough for what is read, hashed and written to stay in a processor's cache.
const chunk = 128 << 10

// content makes a file with the data of another, and leaves out its holes. It returns the new one, and the sum of all of it.
func (c *copier) content(s, to *sys.Entry, name string) (d *sys.Entry, sum sumOf, err error) {
	size, cut := s.Inode.Size, false // cut: it ends in a hole
	in, err := s.Open()
	if err != nil {
		return nil, sum, err
	}
	d, out, err := to.Create(name)
	if err != nil {
		return nil, sum, err
	}
	h := sha256.New()
	err = eachPart(c.ctx, in, s.Inode, c.buf, func(part []byte, at int64, hole bool) error {
		h.Write(part)
		c.progress(int64(len(part)))
		if cut = hole; hole {
			return nil
		}
		_, err := out.WriteAt(part, at)
		return err
	})
	if err == nil && cut {
		err = out.Truncate(size)
	}
	if err != nil {
		return nil, sum, errors.Join(err, d.Close())
	}
	return d, sumOf(h.Sum(nil)), nil
}

// readBack is how much is read at once past the page cache.
const readBack = 1 << 20

var zeros [chunk]byte

// eachPart goes through the content of a file, whose holes are zeros that are not read.
func eachPart(ctx context.Context, f *os.File, inode sys.Inode, buf []byte, part func(b []byte, at int64, hole bool) error) error {
	at, size := int64(0), inode.Size
	next := sys.DataRange
	if inode.Allocated >= size { // no holes, and no questions
		next = func(*os.File, int64) (int64, int64, error) { return at, size, nil }
	}
	hole := func(to int64) error {
		for at < to {
			n := min(to-at, chunk)
			if err := part(zeros[:n], at, true); err != nil {
				return err
			}
			at += n
		}
		return ctx.Err()
	}
	for at < size {
		from, to, err := next(f, at)
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return err
		}
		if err := hole(min(from, size)); err != nil {
			return err
		}
		for to = min(to, size); at < to; {
			n, err := f.ReadAt(buf[:min((to-at+block-1)/block*block, int64(len(buf)))], at)
			n = min(n, int(to-at)) // more than asked for, or after its end
			if n == 0 && errors.Is(err, io.EOF) {
				return hole(size) // it became shorter: the next pass, or the verification, finds out
			}
			if n == 0 {
				return err
			}
			b := buf[:n]
			if err := part(b, at, n >= block && n <= chunk && bytes.Equal(b, zeros[:n])); err != nil {
				return err
			}
			at += int64(n)
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	return hole(size)
}

// sumFile reads a file that is held; cold says from the disk.
func sumFile(ctx context.Context, e *sys.Entry, buf []byte, cold bool) (sum sumOf, err error) {
	f, err := e.Open()
	if err != nil {
		return sum, err
	}
	direct := false
	if cold {
		if direct, err = sys.ReadCold(f); err != nil {
			return sum, err
		}
	}
	h := sha256.New()
	read := func() error {
		h.Reset()
		return eachPart(ctx, f, e.Inode, buf, func(b []byte, _ int64, _ bool) error { h.Write(b); return nil })
	}
	if err = read(); direct && errors.Is(err, syscall.EINVAL) { // a file system that wants other multiples
		if err = sys.ReadForgotten(f); err == nil {
			err = read()
		}
	}
	return sumOf(h.Sum(nil)), err
}
