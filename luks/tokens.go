// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"fmt"
	"syscall"

	"github.com/voluks/voluks/luks/header"
	"github.com/voluks/voluks/luks/internal/cryptsetup"
)

// SetToken writes a token: a JSON object with at least the members "type" (not "luks2-…") and "keyslots" (an array of numbers of existing slots, as
// strings). It replaces the token of that number; a negative number takes the first free one. The number is returned. Nothing is synced.
//
// ErrNoSpace: the metadata area has no room for it, or all 32 numbers are taken; then nothing was written. libcryptsetup refuses a token that is not
// as described with EINVAL.
func (c *Container) SetToken(id int, json []byte) (int, error) {
	op := "set token"
	h, err := c.inspect(op)
	if err != nil {
		return 0, err
	}
	if err := c.fits(op, h, id, len(json)); err != nil {
		return 0, err
	}
	err = c.load(op, nil, func(d *cryptsetup.Device) (err error) {
		id, err = d.SetToken(id, json)
		return err
	})
	if err != nil {
		return 0, err
	}
	return id, c.changed(op, func(after *header.Header) bool { _, ok := after.Tokens[id]; return ok })
}

// fits foresees what libcryptsetup would answer with EINVAL, as it does to most things. It counts the old token of that number as gone, and the members'
// name and separators of a new one.
func (c *Container) fits(op string, h *header.Header, id, size int) error {
	room := h.Config.JSONSize - 1 - int64(len(h.JSON)) // one NUL at the end
	old, replaced := h.Tokens[id]
	if replaced {
		room += int64(len(old.JSON))
	} else {
		size += len(`"31":,`)
	}
	if int64(size) > room || id < 0 && len(h.Tokens) >= header.MaxTokens {
		return &Error{Op: op, Object: c.path, Errno: syscall.ENOSPC, kind: ErrNoSpace}
	}
	return nil
}

// RemoveToken removes a token; its slots stay. Nothing is synced. ErrNoToken: nothing was written.
func (c *Container) RemoveToken(id int) error {
	op := fmt.Sprintf("remove token %d", id)
	h, err := c.inspect(op)
	if err != nil {
		return err
	}
	if _, ok := h.Tokens[id]; !ok {
		return &Error{Op: op, Object: c.path, Errno: syscall.ENOENT, kind: ErrNoToken}
	}
	if err := c.load(op, nil, func(d *cryptsetup.Device) error { return d.RemoveToken(id) }); err != nil {
		return err
	}
	return c.changed(op, func(after *header.Header) bool { _, ok := after.Tokens[id]; return !ok })
}

// Flags say how dm-crypt treats requests.
type Flags struct {
	Discards         bool // pass discards down; they show on the device which blocks are unused
	NoReadWorkqueue  bool // decrypt in the context of the reader; Linux 5.9
	NoWriteWorkqueue bool // encrypt in the context of the writer; Linux 5.9
}

// SetFlags replaces the activation flags in the header. They are for plain cryptsetup, which applies them on every open; [Container.Open] does exactly what
// its parameters say instead. Nothing is synced.
func (c *Container) SetFlags(f Flags) error {
	op := "set flags"
	if _, err := c.inspect(op); err != nil {
		return err
	}
	return c.load(op, nil, func(d *cryptsetup.Device) error { return d.SetPersistentFlags(cryptsetup.Flags(f)) })
}
