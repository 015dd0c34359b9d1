// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
)

// ErrLength means that a source did not have exactly as many bytes as the key must have.
var ErrLength = errors.New("wrong length")

// Random returns a key of n random bytes, written by the system's generator straight into locked memory.
func Random(n int) (*Key, error) {
	k, err := New(n)
	if err != nil {
		return nil, err
	}
	if _, err := rand.Read(k.Bytes()); err != nil {
		k.Wipe()
		return nil, fmt.Errorf("make a random key: %w", err)
	}
	return k, nil
}

// Read returns a key of the n bytes that r has, without a copy elsewhere unless r makes one. If r has fewer or more the error wraps ErrLength and
// says how many there were (of more, that there are more).
func Read(r io.Reader, n int) (*Key, error) {
	k, err := New(n)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadFull(r, k.Bytes())
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("%d bytes instead of %d: %w", got, n, ErrLength)
	}
	if err == nil {
		err = atEnd(r, n)
	}
	if err != nil {
		k.Wipe()
		return nil, fmt.Errorf("read a key: %w", err)
	}
	return k, nil
}

func atEnd(r io.Reader, n int) error {
	var extra [1]byte
	defer clear(extra[:])
	_, err := io.ReadFull(r, extra[:])
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil {
		return fmt.Errorf("more than %d bytes: %w", n, ErrLength)
	}
	return err
}

// Move returns a key that holds what b held, and zeroes b, also when it fails. For bytes that a foreign library has put on the heap.
func Move(b []byte) (*Key, error) {
	defer clear(b)
	k, err := New(len(b))
	if err != nil {
		return nil, err
	}
	copy(k.Bytes(), b)
	return k, nil
}
