// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/luks"
)

// Prove shows that the slot opens with the key, by two implementations that have nothing in common:
// libcryptsetup, and luks.go on the header as it is read back past the caches. Nothing is relied on,
// and nothing retired, before that. The error is a *ProofError.
func Prove(c Container, slot int, key *secret.Key) error {
	if err := c.TestSlot(slot, key); err != nil {
		return &ProofError{Slot: slot, By: "libcryptsetup", Err: err}
	}
	if err := c.Witness(slot, key); err != nil {
		return &ProofError{Slot: slot, By: "luks.go", Err: err}
	}
	return nil
}

// A writer does the header changes of one operation: a handle of their own for each, durable and
// proven before the next.
type writer struct {
	Container
	syncer *luks.Syncer
	hit    func(point string)
}

// write opens the descriptor that tells of failed writes, before the first of them. The caller closes
// the writer. k may be nil.
func write(c Container, k *Keyring) (*writer, error) {
	syncer, err := c.Syncer()
	if err != nil {
		return nil, err
	}
	return &writer{c, syncer, k.hit}, nil
}

func (w *writer) close() { _ = w.syncer.Close() }

// settle makes a slot durable and proves it.
func (w *writer) settle(slot int, key *secret.Key) error {
	if err := w.sync(); err != nil {
		return err
	}
	return Prove(w, slot, key)
}

// token writes a token durably; a negative number is a new one.
func (w *writer) token(id int, json []byte) error {
	if _, err := w.SetToken(id, json); err != nil {
		return err
	}
	return w.sync()
}

// sync makes everything so far durable. After an error, which is a *syncError, nothing may be concluded
// from anything that this process does.
func (w *writer) sync() error {
	if err := w.syncer.Sync(); err != nil {
		return &syncError{err}
	}
	return nil
}

type syncError struct{ err error }

func (e *syncError) Error() string { return e.err.Error() }
func (e *syncError) Unwrap() error { return e.err }
