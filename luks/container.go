// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks/header"
	"github.com/voluks/voluks/luks/internal/cryptsetup"
)

// Container is one LUKS2 container, named by its device or file. It keeps nothing open: each method uses a handle of its own, so what others wrote in between
// is seen. Its methods may be called from several goroutines, but two writers of one container need a lock of their caller's.
type Container struct {
	path     string
	onDamage func(error)
	foreign  bool // somebody else formatted it; see Foreign

	testOnlyBeforeActivation func()
}

// At names the container at path: a block device or, while it is not attached to one, an image file. Nothing is opened yet.
//
// While an image is attached, use the device: the image's lock is held by it then, and methods on the file give ErrBusy after a second.
func At(path string) *Container { return &Container{path: path} }

// OnDamage sets a function that is told (a *header.DamagedError) when a method finds one of the two copies of the header damaged or older, before the method
// lets libcryptsetup repair that. It returns c.
func (c *Container) OnDamage(f func(error)) *Container {
	c.onDamage = f
	return c
}

// Path returns the path given to At.
func (c *Container) Path() string { return c.path }

// inspect reads the header and reports damage. Nothing is written, and without a good copy nothing will be.
func (c *Container) inspect(op string) (*header.Header, error) {
	h, err := c.Header()
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", op, c.path, err)
	}
	if err := h.Damage(); err != nil && c.onDamage != nil {
		c.onDamage(err)
	}
	return h, nil
}

// ours is inspect for methods that use a key: the header must be one that voluks could have written.
func (c *Container) ours(op string, e header.Expect) (*header.Header, error) {
	h, err := c.inspect(op)
	if err != nil {
		return nil, err
	}
	if err := h.Strict(c.expectation(h, e)); err != nil {
		return nil, fmt.Errorf("%s of %s: %w", op, c.path, err)
	}
	return h, nil
}

// load runs f with the header loaded by libcryptsetup. k says what an errno of f means.
func (c *Container) load(op string, k kinds, f func(*cryptsetup.Device) error) error {
	if err := c.unlocked(op); err != nil {
		return err
	}
	var inner error
	err := cryptsetup.Load(c.path, func(d *cryptsetup.Device) error {
		inner = f(d)
		return inner
	})
	if inner != nil {
		return failed(op, c.path, inner, k)
	}
	return failed(op, c.path, err, nil)
}

// How long somebody else may hold the lock of an image file. cryptsetup takes it for moments; a loop device holds it for good, and libcryptsetup would wait
// for ever.
const lockWait = time.Second

// unlocked waits until nobody holds the lock of a file. Of a block device libcryptsetup locks something else.
func (c *Container) unlocked(op string) error {
	st, err := os.Stat(c.path)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if !st.Mode().IsRegular() {
		return nil
	}
	f, err := os.Open(c.path)
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	defer f.Close() // and with it the lock
	ctx, cancel := context.WithTimeout(context.Background(), lockWait)
	defer cancel()
	if err := sys.LockWait(ctx, f); errors.Is(err, sys.ErrLocked) {
		return &Error{Op: op, Object: c.path, Errno: syscall.EBUSY, kind: ErrBusy}
	} else if err != nil {
		return fmt.Errorf("%s of %s: %w", op, c.path, err)
	}
	return nil
}

// Version returns the version of the libcryptsetup that is loaded, for example "2.6.1".
func Version() (string, error) {
	f, err := sys.Memfd("voluks-version", make([]byte, 4096))
	if err != nil {
		return "", err
	}
	defer f.Close()
	return cryptsetup.Version(descriptor(f))
}

// descriptor is a path for an open file without one.
func descriptor(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
