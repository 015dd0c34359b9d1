// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"

	"github.com/voluks/voluks/keyslot"
)

// ErrOlderHeader is in the error of a volume whose header was replaced by an older one.
var ErrOlderHeader = errors.New("older header")

// OlderHeaderError is a header from before a rotation that the record knows of: somebody restored a backup, or the disk. Keys that were retired since
// open it again. It is ErrOlderHeader.
type OlderHeaderError struct {
	Generation, Known uint64 // of the header, and of the record
}

// Error implements error.
func (e *OlderHeaderError) Error() string {
	return fmt.Sprintf("its header has generation %d, and the volume had reached %d: it is an %v, which keys open that were retired since; if that is meant, "+
		"`voluks volume mount --accept-older-header` opens it and rotates its keys at once", e.Generation, e.Known, ErrOlderHeader)
}

// Is makes it an ErrOlderHeader.
func (e *OlderHeaderError) Is(target error) bool { return target == ErrOlderHeader }

// generation is the highest one that the record knows of; 0 if it does not know.
func (r *record) generation() uint64 {
	var g uint64
	for _, s := range r.Slots {
		g = max(g, s.Generation)
	}
	return g
}

// olderHeader refuses a header that is older than what the record knows (F36 F40).
func olderHeader(s keyslot.Slots, r *record) error {
	if g, known := s.Generation(), r.generation(); g < known {
		return &Error{Code: CodeDamaged, Err: &OlderHeaderError{Generation: g, Known: known}}
	}
	return nil
}

// AcceptOlderHeader takes the header that is there, though it is older than the volume had reached, and rotates all managed slots at once. Until all
// are rotated the volume stays refused, however this ends; it can be repeated. A header that is not older is left alone. Errors are those of Rotate.
func (m *Manager) AcceptOlderHeader(ctx context.Context, name string) (receipt KeyReceipt, err error) {
	defer finishError(&err, ActionRotate, name)
	l, r, err := m.lockReady(ctx, name, ActionRotate)
	if err != nil {
		return receipt, err
	}
	defer l.Release()
	c, path, err := m.door(ctx, r)
	if err != nil {
		return receipt, err
	}
	h, err := c.Header()
	if err != nil {
		return receipt, fmt.Errorf("read its LUKS header: %w", err)
	}
	_, err = m.checkHeader(h, r)
	if !errors.Is(err, ErrOlderHeader) {
		return receipt, err
	}
	k, err := m.keyring(ctx)
	if err != nil {
		return receipt, err
	}
	slots, err := keyslot.State(h)
	if err != nil {
		return receipt, err
	}
	// The last rotation alone brings the header up to what the record knows: those before it stay below.
	var roles []string
	if len(k.Identities) > 0 { // the key of the node may be lost as well, and it alone rotates the recovery slot
		roles = append(roles, keyslot.RoleAgent)
	}
	for _, s := range slots.Slots {
		if s.Role == keyslot.RoleRecovery && len(k.Recipients) > 0 {
			roles = append(roles, keyslot.RoleRecovery)
		}
	}
	known := r.generation() + uint64(len(roles))
	if r.generation() < known {
		for i := range r.Slots {
			if r.Slots[i].Generation == r.generation() {
				r.Slots[i].Generation = known
				break
			}
		}
		if err := m.save(r); err != nil {
			return receipt, err
		}
	}
	receipt = KeyReceipt{V: 1, Action: ActionRotate, Volume: name, UUID: r.UUID, Warnings: []string{
		"an older header was accepted: it, and keys that were retired since, may be in other hands; against that only a new volume helps, into which the data is copied",
	}}
	if err := rotateRoles(ctx, c, k, &receipt, roles); err != nil {
		return receipt, err
	}
	m.o.Crash("rollback.recovery")
	done, err := keyslot.RotateAbove(ctx, c, k, keyslot.RoleAgent, known)
	if err != nil {
		return receipt, err
	}
	receipt.add(done)
	if err := m.catchUp(r, c); err != nil {
		return receipt, err
	}
	m.renewBackups(k, path, &receipt)
	receipt.Ended = m.now().UTC()
	return receipt, m.keepReceipt(&receipt)
}
