// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/keyslot"
)

// What a crash leaves while the keys of a volume are changed, and who repairs it. What happens inside the header stands in package keyslot.
//
//	after this step            a crash leaves                                      repaired by
//	header changed             a record that shows the old slots                   the next Mount or Rotate
//	record written             backups of the old header                           the next change of the header
//	backups renewed            no receipt                                          -
//	receipt written            everything
//
// The record comes before the backups: it is what an older header is known by (see olderHeader).

// KeyReceipt says what an operation on the keys of one volume did. It is kept under the state directory, and holds no secret.
type KeyReceipt struct {
	V         int                  `json:"v"`                   // version of this form
	Action    string               `json:"action"`              // see ActionRotate and so on
	Volume    string               `json:"volume"`              // its name
	UUID      string               `json:"uuid"`                // of the LUKS header
	Rotated   []keyslot.Rotated    `json:"rotated,omitempty"`   // one for each slot
	Rewrapped *keyslot.Rewrapped   `json:"rewrapped,omitempty"` // nil if no wrap was asked for
	Removed   []int                `json:"removed,omitempty"`   // slots that are gone without a successor
	Verified  *Verified            `json:"verified,omitempty"`  // of a drill
	Backups   *headerbackup.Report `json:"backups,omitempty"`   // what became of the older header backups
	Warnings  []string             `json:"warnings,omitempty"`  // what is left to be done
	Ended     time.Time            `json:"ended"`               // when it was done

	renew bool // an interrupted operation may have left older backups
}

// Changed tells whether the header was changed.
func (r *KeyReceipt) Changed() bool {
	return len(r.Rotated) > 0 || len(r.Removed) > 0 || r.Rewrapped != nil && r.Rewrapped.Changed
}

// The actions of receipts.
const (
	ActionRotate = "rotate"
	ActionRewrap = "rewrap"
	ActionRevoke = "revoke"
	ActionRekey  = "rekey"      // the recovery slot is sealed to other recipients
	ActionAdd    = "add-key"    // a recovery key that is typed
	ActionRemove = "remove-key" // the same
	ActionVerify = "verify"     // the recovery slot is tried; nothing is changed
)

// Rotate gives the slots of these roles new keys in new slots, and destroys the old ones. The volume may be mounted, and stays so; one that was
// interrupted is finished. Errors: ErrNotFound, ErrInvalid, ErrUnfinished, ErrLocked, ErrConfig, ErrNoRecovery, ErrDamaged, ErrBusy, ErrStuck,
// ErrTimeout, ErrCanceled; after any of them the volume opens as before.
func (m *Manager) Rotate(ctx context.Context, name string, roles ...string) (KeyReceipt, error) {
	return m.changeKeys(ctx, name, ActionRotate, func(c Container, k *keyslot.Keyring, r *KeyReceipt) error {
		if len(roles) == 0 {
			return &Error{Code: CodeInvalid, Err: errors.New("no role is given")}
		}
		return rotateRoles(ctx, c, k, r, roles)
	})
}

func rotateRoles(ctx context.Context, c Container, k *keyslot.Keyring, r *KeyReceipt, roles []string) error {
	for _, role := range roles {
		done, err := keyslot.Rotate(ctx, c, k, role)
		if err != nil {
			return err
		}
		r.add(done)
	}
	return nil
}

func (r *KeyReceipt) add(done *keyslot.Rotated) {
	r.Rotated = append(r.Rotated, *done)
	for _, slot := range done.Left {
		r.Warnings = append(r.Warnings, fmt.Sprintf("key slot %d was left by an interrupted rotation or made by somebody else; nobody can tell, so it stays", slot))
	}
}

// Rewrap moves the agent slot to the key that wraps now, without changing the slot. Errors are those of Rotate.
func (m *Manager) Rewrap(ctx context.Context, name string) (KeyReceipt, error) {
	return m.changeKeys(ctx, name, ActionRewrap, func(c Container, k *keyslot.Keyring, r *KeyReceipt) error {
		return rewrapKeys(ctx, c, k, r)
	})
}

func rewrapKeys(ctx context.Context, c Container, k *keyslot.Keyring, r *KeyReceipt) (err error) {
	r.Rewrapped, err = keyslot.Rewrap(ctx, c, k)
	return err
}

// Revoke rotates the agent slot if the key of that ID has ever wrapped its key. Errors are those of Rotate; ErrInvalid if that key is the active one.
func (m *Manager) Revoke(ctx context.Context, name, keyID string) (KeyReceipt, error) {
	return m.changeKeys(ctx, name, ActionRevoke, func(c Container, k *keyslot.Keyring, r *KeyReceipt) error {
		return revokeKey(ctx, c, k, r, keyID)
	})
}

func revokeKey(ctx context.Context, c Container, k *keyslot.Keyring, r *KeyReceipt, keyID string) error {
	done, err := keyslot.Revoke(ctx, c, k, keyID)
	if errors.Is(err, keyslot.ErrStillActive) {
		return &Error{Code: CodeInvalid, Err: err}
	}
	if done != nil {
		r.add(done)
	}
	return err
}

// changeKeys does one change of the header of a volume under its lock, by its one door, and what belongs to it.
func (m *Manager) changeKeys(ctx context.Context, name, action string, change func(Container, *keyslot.Keyring, *KeyReceipt) error) (receipt KeyReceipt, err error) {
	defer finishError(&err, action, name)
	l, r, err := m.lockReady(ctx, name, action)
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
	slots, err := m.checkHeader(h, r)
	if err != nil {
		return receipt, err
	}
	r.observe(slotInfos(slots)) // to know afterwards what has changed
	k, err := m.keyring(ctx)
	if err != nil {
		return receipt, err
	}
	receipt = KeyReceipt{V: 1, Action: action, Volume: name, UUID: r.UUID}
	err = change(c, k, &receipt)
	m.o.Crash(action + ".header")
	if err2 := m.catchUp(r, c); err2 != nil {
		return receipt, errors.Join(err, err2)
	}
	m.o.Crash(action + ".recorded")
	if err != nil && !receipt.Changed() && !receipt.renew {
		return receipt, err
	}
	// Of several slots the first ones may have been changed before one failed: that is no less true.
	m.conclude(k, path, &receipt)
	return receipt, err
}

// conclude does what follows a change of a header: its backups, and the receipt.
func (m *Manager) conclude(k *keyslot.Keyring, path string, receipt *KeyReceipt) {
	m.renewBackups(k, path, receipt)
	m.o.Crash(receipt.Action + ".backup")
	receipt.Ended = m.now().UTC()
	if receipt.Changed() {
		if err := m.keepReceipt(receipt); err != nil { // the keys are changed all the same
			receipt.Warnings = append(receipt.Warnings, "the receipt could not be kept: "+err.Error())
		}
	}
}

// lockReady locks a volume that is complete.
func (m *Manager) lockReady(ctx context.Context, name, op string) (*lock, *record, error) {
	if err := CheckName(name); err != nil {
		return nil, nil, &Error{Code: CodeInvalid, Err: err}
	}
	if _, err := m.find(name); err != nil { // a name that no volume has gets no lock file
		return nil, nil, err
	}
	l, err := m.lockVolume(ctx, name, op)
	if err != nil {
		return nil, nil, err
	}
	r, err := m.find(name)
	if err == nil && r.State != StateReady {
		err = &Error{Code: CodeUnfinished, Err: errors.New("its creation was interrupted: create it again with the same options to finish it, or remove it")}
	}
	if err == nil && r.Spec.Ephemeral {
		err = &Error{Code: CodeInvalid, Err: errors.New("it is ephemeral: its key and content are made anew each time, and there is nothing to change")}
	}
	if err == nil {
		err = m.checkBacking(ctx, r)
	}
	if err != nil {
		l.Release()
		return nil, nil, err
	}
	return l, r, nil
}

// catchUp brings the record up to the header, durably. What it knows of the generation never falls.
func (m *Manager) catchUp(r *record, c Container) error {
	h, err := c.Header()
	if err != nil {
		return err
	}
	slots, err := keyslot.State(h)
	if err != nil && slots.Volume == nil || slots.Generation() < r.generation() {
		return err
	}
	r.observe(slotInfos(slots))
	return m.save(r)
}
