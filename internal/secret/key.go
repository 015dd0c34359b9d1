// SPDX-License-Identifier: Apache-2.0

// Package secret holds key material: in memory that is locked, not dumped, not inherited and wiped, behind a type that cannot be printed.
//
// One ownership rule holds in all of voluks: returning a *Key hands it over (the caller writes "defer k.Wipe()" on the next line); taking one as an
// argument only borrows it. No function takes or returns a key as string or []byte.
package secret

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"

	"github.com/voluks/voluks/internal/sys"
)

// ErrWiped means that the key was wiped before it was used.
var ErrWiped = errors.New("key was already wiped")

// Key is a secret of fixed length. Use it by pointer alone; go vet rejects copies. The zero value is a wiped key.
type Key struct {
	_ noCopy
	m atomic.Pointer[memory]
}

// memory gives the bytes through a function: a printer that walks values by reflection, as some loggers and diff tools do, follows pointers and
// slices, but cannot look into a closure.
type memory struct {
	bytes func() []byte
	net   runtime.Cleanup
}

type noCopy struct{}

func (*noCopy) Lock()   {}
func (*noCopy) Unlock() {}

// New returns a key of n zero bytes, to be filled in place. The error wraps sys.ErrMemlock if the memory may not be locked.
func New(n int) (*Key, error) {
	b, err := sys.LockedAlloc(n)
	if err != nil {
		return nil, fmt.Errorf("make a key of %d bytes: %w", n, err)
	}
	k := &Key{}
	m := &memory{bytes: func() []byte { return b }}
	// The net for a key that nobody wiped. It must not refer to k.
	m.net = runtime.AddCleanup(k, func(b []byte) { _ = sys.LockedFree(b) }, b)
	k.m.Store(m)
	return k, nil
}

// Bytes returns the key's own memory. The slice is valid until Wipe, and as long as k is reachable: a deferred Wipe sees to both, else write
// runtime.KeepAlive(k) after the last use. Reading it later faults. Copies of it are the caller's to wipe. Bytes of a wiped key panics: an empty
// passphrase where a key was meant would be accepted by much of what takes passphrases.
func (k *Key) Bytes() []byte {
	m := k.m.Load()
	if m == nil {
		panic("secret: use of a wiped key")
	}
	return m.bytes()
}

// Len returns the length in bytes, 0 of a wiped key.
func (k *Key) Len() int {
	m := k.m.Load()
	if m == nil {
		return 0
	}
	return len(m.bytes())
}

// Equal compares in constant time (of keys of equal length). A nil or wiped key equals nothing.
func (k *Key) Equal(other *Key) bool {
	if k == nil || other == nil || k.Len() == 0 || other.Len() == 0 {
		return false
	}
	defer runtime.KeepAlive(other)
	defer runtime.KeepAlive(k)
	return subtle.ConstantTimeCompare(k.Bytes(), other.Bytes()) == 1
}

// Clone returns an independent copy, which the caller wipes. ErrWiped if there is nothing to copy.
func (k *Key) Clone() (*Key, error) {
	if k.Len() == 0 {
		return nil, fmt.Errorf("copy a key: %w", ErrWiped)
	}
	c, err := New(k.Len())
	if err != nil {
		return nil, err
	}
	copy(c.Bytes(), k.Bytes())
	runtime.KeepAlive(k)
	return c, nil
}

// Wipe zeroes the memory and gives it back. It may be called any number of times, and on nil. Nobody may be using the key meanwhile.
func (k *Key) Wipe() {
	if k == nil {
		return
	}
	m := k.m.Swap(nil)
	if m == nil {
		return
	}
	m.net.Stop()
	// The zeroing cannot fail, and munmap of a whole mapping of ours does not; a process that could not would still have lost the secret.
	_ = sys.LockedFree(m.bytes())
	runtime.KeepAlive(k)
}
