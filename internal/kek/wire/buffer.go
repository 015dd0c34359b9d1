// SPDX-License-Identifier: Apache-2.0

// Package wire is what the key providers that talk to others have in common: bounded reading into locked memory, JSON with a key in it, and
// complaints made fit for an error message.
package wire

import (
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/voluks/voluks/internal/secret"
)

// ErrTooLong means that an answer is longer than an answer can be.
var ErrTooLong = errors.New("longer than an answer can be")

// Buffer is an answer in locked memory.
type Buffer struct {
	memory *secret.Key
	n      int
}

// Read reads r to its end, straight into locked memory, which the caller wipes. More than limit bytes are ErrTooLong, and at most one byte more
// than that is read.
func Read(r io.Reader, limit int) (*Buffer, error) {
	memory, err := secret.New(limit + 1)
	if err != nil {
		return nil, err
	}
	b := &Buffer{memory: memory}
	b.n, err = io.ReadFull(r, memory.Bytes())
	if err == nil {
		err = fmt.Errorf("more than %d bytes: %w", limit, ErrTooLong)
	} else if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return b, nil
	}
	b.Wipe()
	return nil, err
}

// Bytes returns the answer. It is valid until Wipe.
func (b *Buffer) Bytes() []byte { return b.memory.Bytes()[:b.n] }

// Wipe zeroes it. It may be called any number of times, and on nil.
func (b *Buffer) Wipe() {
	if b != nil {
		b.memory.Wipe()
	}
}

// Key returns the answer as a key, if it is exactly n bytes long; the error wraps secret.ErrLength and says how many there were. The Buffer is wiped
// in any case.
func (b *Buffer) Key(n int) (*secret.Key, error) {
	defer b.Wipe()
	return secret.Read(&reader{b: b.Bytes(), keep: b}, n)
}

// reader reads from locked memory straight into the reader's.
type reader struct {
	b    []byte
	keep *Buffer
}

func (r *reader) Read(p []byte) (int, error) {
	defer runtime.KeepAlive(r.keep)
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}
