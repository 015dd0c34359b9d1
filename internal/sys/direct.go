// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// directUnit is the alignment of offsets, lengths and memory for direct I/O: at least the logical block size of every device and file system seen.
const directUnit = 4096

// directChunk bounds one transfer, and so the bounce buffer.
const directChunk = 1 << 20

// DirectFile reads and writes past the page cache (O_DIRECT), so that it sees what is on the device and not a stale page: a buffered read of a loop
// device is stale after a write through its file. Offsets and lengths are free for reading; for writing both must be multiples of 4096.
// It is not safe for concurrent use.
type DirectFile struct {
	f      *os.File
	size   int64
	direct bool
	buf    []byte // aligned
	unmap  []byte
}

// OpenDirect opens a block device or regular file. A symbolic link is followed to a block device only. Regular files on a file system that has no
// direct I/O are opened buffered (Direct tells), block devices never.
func OpenDirect(path string, write bool) (*DirectFile, error) {
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_RDWR
	}
	f, err := open(path, flags|unix.O_DIRECT|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	link := false
	if errors.Is(err, unix.ELOOP) {
		link = true
		f, err = open(path, flags|unix.O_DIRECT|unix.O_NONBLOCK, 0)
	}
	direct := true
	if errors.Is(err, unix.EINVAL) {
		direct = false
		f, err = open(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, err
	}
	d, err := newDirect(f, link, direct)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return d, nil
}

func newDirect(f *os.File, link, direct bool) (*DirectFile, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	d := &DirectFile{f: f, direct: direct}
	device := st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0
	switch {
	case device && direct:
		if d.size, err = deviceSize(f); err != nil {
			return nil, err
		}
	case st.Mode().IsRegular() && !link:
		d.size = st.Size()
	default:
		return nil, fmt.Errorf("open %s for direct i/o: neither a block device nor a regular file", f.Name())
	}
	if d.unmap, err = bounce(); err != nil {
		return nil, fmt.Errorf("open %s for direct i/o: map buffer: %w", f.Name(), err)
	}
	d.buf = d.unmap
	return d, nil
}

// spare is one buffer that nobody uses: a header is read a dozen times in a row, and each fresh page costs a fault.
var spare atomic.Pointer[[]byte]

// bounce is a buffer from mmap, which is aligned to a page, as the Go heap does not promise.
func bounce() ([]byte, error) {
	if b := spare.Swap(nil); b != nil {
		return *b, nil
	}
	return unix.Mmap(-1, 0, directChunk, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
}

// Size returns the size in bytes when it was opened.
func (d *DirectFile) Size() int64 { return d.size }

// Direct tells whether the page cache is really left out.
func (d *DirectFile) Direct() bool { return d.direct }

// File returns the open file, which stays the DirectFile's.
func (d *DirectFile) File() *os.File { return d.f }

// ReadAt reads len(p) bytes at off. As io.ReaderAt says, fewer come with an error: io.EOF beyond the size, io.ErrUnexpectedEOF if the device
// ended before the size it claims.
func (d *DirectFile) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("read %s: negative offset", d.f.Name())
	}
	done := 0
	for done < len(p) {
		if off >= d.size {
			return done, io.EOF
		}
		n, err := d.readChunk(p[done:], off)
		done += n
		off += int64(n)
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

func (d *DirectFile) readChunk(p []byte, off int64) (int, error) {
	start := off &^ (directUnit - 1)
	skip := int(off - start)
	want := min(len(p), directChunk-skip)
	want = int(min(int64(want), d.size-off))
	length := (skip + want + directUnit - 1) &^ (directUnit - 1)
	got := 0
	for got < skip+want {
		n, err := d.f.ReadAt(d.buf[got:length], start+int64(got))
		got += n
		if got >= skip+want {
			break
		}
		if err == io.EOF || (err == nil && n == 0) {
			return 0, fmt.Errorf("read %s at %d: %w", d.f.Name(), start+int64(got), io.ErrUnexpectedEOF)
		}
		if err != nil {
			return 0, fmt.Errorf("read %s at %d: %w", d.f.Name(), start+int64(got), err)
		}
		if n%directUnit != 0 {
			return 0, fmt.Errorf("read %s at %d: short read of %d bytes", d.f.Name(), start+int64(got), n)
		}
	}
	return copy(p[:want], d.buf[skip:skip+want]), nil
}

// WriteAt writes p at off, both multiples of 4096.
func (d *DirectFile) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off%directUnit != 0 || len(p)%directUnit != 0 {
		return 0, fmt.Errorf("write %s: offset %d and length %d must be multiples of %d", d.f.Name(), off, len(p), directUnit)
	}
	done := 0
	for done < len(p) {
		n := copy(d.buf, p[done:])
		m, err := d.f.WriteAt(d.buf[:n], off+int64(done))
		done += m
		if err != nil {
			return done, fmt.Errorf("write %s at %d: %w", d.f.Name(), off+int64(done), err)
		}
	}
	return done, nil
}

// Sync makes what was written durable, and reports write errors that happened since the file was opened.
func (d *DirectFile) Sync() error {
	if err := d.f.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

// Close closes the file and frees the buffer. A second call is an error.
func (d *DirectFile) Close() error {
	err := d.f.Close()
	if d.unmap != nil {
		// Not cleared: that would touch all of its pages, most of them for the first time. What was in it is on a disk, and no secret.
		if b := d.unmap; !spare.CompareAndSwap(nil, &b) {
			err = errors.Join(err, unix.Munmap(b))
		}
		d.buf, d.unmap = nil, nil
	}
	return err
}

// ReadDirect reads n bytes at off of a block device or regular file past the page cache; see DirectFile for what that means. Fewer bytes are an error.
func ReadDirect(path string, off int64, n int) ([]byte, error) {
	d, err := OpenDirect(path, false)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	b := make([]byte, n)
	if _, err := d.ReadAt(b, off); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("read %d bytes of %s at %d: it has %d: %w", n, path, off, d.size, io.ErrUnexpectedEOF)
		}
		return nil, err
	}
	return b, nil
}
