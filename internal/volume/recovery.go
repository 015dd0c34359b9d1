// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/keyslot"
)

// Drill is a trial of the recovery identity that went well.
type Drill struct {
	At time.Time `json:"at"` // when the slot was opened with the identity
	// Identities are the fingerprints of those that were lent and that the slot is sealed to.
	Identities []string `json:"identities"`
}

// Verified is what a trial found.
type Verified struct {
	Slot int `json:"slot"` // that the identity opened
	Drill
}

// Rekey seals the recovery slot to the node's recovery recipients and to nobody else, with a new key in a new slot; where there is no recovery slot it is
// made. Nothing is changed if it is so already. Whoever an older recovery slot was sealed to is remembered (Info.PastRecipients). Errors are those of Rotate.
func (m *Manager) Rekey(ctx context.Context, name string) (KeyReceipt, error) {
	return m.changeKeys(ctx, name, ActionRekey, func(c Container, k *keyslot.Keyring, r *KeyReceipt) error {
		done, err := keyslot.Rekey(ctx, c, k)
		if done != nil {
			r.add(done)
		}
		return err
	})
}

// AddRecoveryKey adds a slot for a recovery key that a person types and has already. The key is borrowed. Errors are those of Rotate.
func (m *Manager) AddRecoveryKey(ctx context.Context, name string, key *secret.Key) (KeyReceipt, error) {
	return m.changeKeys(ctx, name, ActionAdd, func(c Container, k *keyslot.Keyring, r *KeyReceipt) error {
		done, err := keyslot.AddTyped(ctx, c, k, key)
		if done != nil {
			r.add(done)
		}
		return err
	})
}

// RemoveRecoveryKey destroys a slot of a recovery key that is typed; a negative number is the only one that there is. Errors are those of Rotate;
// ErrInvalid if there is no such slot, or several.
func (m *Manager) RemoveRecoveryKey(ctx context.Context, name string, slot int) (KeyReceipt, error) {
	return m.changeKeys(ctx, name, ActionRemove, func(c Container, k *keyslot.Keyring, r *KeyReceipt) error {
		if slot < 0 {
			h, err := c.Header()
			if err != nil {
				return err
			}
			all := keyslot.TypedSlots(h)
			if len(all) > 1 {
				return &Error{Code: CodeInvalid, Err: fmt.Errorf("it has several recovery keys, in the slots %v: say which one", all)}
			}
			if len(all) == 1 {
				slot = all[0]
			}
		}
		err := keyslot.RemoveTyped(ctx, c, k, slot)
		if errors.Is(err, keyslot.ErrNoTyped) {
			r.renew = true // a removal that was killed got this far, and a backup in which the key has its slot may be left
			return &Error{Code: CodeInvalid, Err: errors.New("it has no such recovery key")}
		}
		if err == nil {
			r.Removed = []int{slot}
		}
		return err
	})
}

// VerifyRecovery is the drill: it opens the recovery slot with the lent identities, by two implementations, and writes down that it could. The header is
// not changed, and the node's own keys are not asked. Errors: ErrNotFound, ErrInvalid, ErrUnfinished, ErrLocked (the identity does not open it),
// ErrNoRecovery (it has no recovery slot), ErrDamaged, ErrBusy, ErrStuck, ErrTimeout, ErrCanceled.
func (m *Manager) VerifyRecovery(ctx context.Context, name string) (receipt KeyReceipt, err error) {
	defer finishError(&err, ActionVerify, name)
	l, r, err := m.lockReady(ctx, name, ActionVerify)
	if err != nil {
		return receipt, err
	}
	defer l.Release()
	c, _, err := m.door(ctx, r)
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
	slot, err := keyslot.ProveRecovery(c, m.o.Identities)
	if err != nil {
		return receipt, err
	}
	r.observe(slotInfos(slots))
	r.Drill = &Drill{At: m.now().UTC().Truncate(time.Second), Identities: []string{}}
	for _, i := range m.o.Identities {
		if f := i.Recipient().Fingerprint(); slices.ContainsFunc(r.Slots, func(s SlotInfo) bool { return slices.Contains(s.Recipients, f) }) {
			r.Drill.Identities = append(r.Drill.Identities, f)
		}
	}
	if err := m.save(r); err != nil {
		return receipt, err
	}
	return KeyReceipt{V: 1, Action: ActionVerify, Volume: name, UUID: r.UUID, Verified: &Verified{slot, *r.Drill}, Ended: m.now().UTC()}, nil
}

// maxPast bounds what a record remembers.
const maxPast = 64

// observe takes in what a header has, and remembers whom its recovery slot is not sealed to any more. The record is saved by the caller, who may be the
// first to come by after a crash.
func (r *record) observe(slots []SlotInfo) {
	sealed := func(slots []SlotInfo) (all []string) {
		for _, s := range slots {
			all = append(all, s.Recipients...)
		}
		return all
	}
	now := sealed(slots)
	for _, f := range sealed(r.Slots) {
		if !slices.Contains(now, f) && !slices.Contains(r.Past, f) {
			r.Past = append(r.Past, f)
		}
	}
	r.Past = r.Past[max(0, len(r.Past)-maxPast):]
	r.Slots = slots
}

func (m *Manager) drillEvery() time.Duration {
	if m.o.DrillEvery == nil {
		return 0
	}
	return m.o.DrillEvery()
}

// drillDue says that nobody has tried the recovery identity for too long, or nothing. A volume is given that long after its creation, since the identity
// was confirmed then; one that was sealed to others since is given nothing.
func (i *Info) drillDue(every time.Duration, now time.Time) string {
	var recipients []string
	has := false
	for _, s := range i.Slots {
		if s.Role == keyslot.RoleRecovery {
			has, recipients = true, append(recipients, s.Recipients...)
		}
	}
	if !has || every <= 0 {
		return ""
	}
	const how = "see that it still opens it: voluks recovery verify"
	switch {
	case i.Drill == nil && now.Sub(i.Created) >= every:
		return "the recovery identity was never tried; " + how
	case i.Drill == nil:
	case len(recipients) > 0 && !slices.ContainsFunc(i.Drill.Identities, func(f string) bool { return slices.Contains(recipients, f) }):
		return "the recovery identity was replaced and the new one was never tried; " + how
	case now.Sub(i.Drill.At) >= every:
		return fmt.Sprintf("the recovery identity was last tried on %s, more than %s ago; %s", i.Drill.At.Format(time.DateOnly), config.DurationText(every), how)
	}
	return ""
}
