// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/voluks/voluks/internal/crashpoint"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// Slots that open with what a person types or keeps in a file, of any LUKS2 container. Their keys are not ours to store, so there is no journal: the
// order of writes alone makes each crash harmless, and who repeats the operation with the same keys finishes it.
//
// AddKey
//
//	0 nothing      the container as it was                  begins anew
//	1 new slot     one slot more, which opens               finds that the key opens it, and proves it
//	  sync, proof  the same
//
// ReplaceKey
//
//	1 new slot     both open                                finds that the new key opens one, proves it, and goes on
//	  sync, proof  the same
//	2 old gone     the new slot                             nothing to do: the old key opens nothing, the new one does

// Changed is what AddKey and ReplaceKey did. It holds nothing secret.
type Changed struct {
	UUID     string   `json:"uuid"`              // of the LUKS header
	NewSlot  int      `json:"new_slot"`          // its number
	OldSlot  int      `json:"old_slot"`          // -1: none
	OldKDF   string   `json:"old_kdf,omitempty"` // of the slot that is gone, for people
	NewKDF   string   `json:"new_kdf"`           // of the new slot, for people
	ProvedBy []string `json:"proved_by"`         // implementations that opened the new slot
	Resumed  bool     `json:"resumed,omitempty"` // the slot was there already: an earlier call was interrupted, or the key known
}

// ErrManaged: a slot belongs to a token, of voluks or of somebody else, and is changed by whoever made it.
var ErrManaged = errors.New("the key slot belongs to a token")

// ErrUntested: nothing was removed, since no other slot was shown to open.
var ErrUntested = errors.New("no other key slot was shown to open")

// AddKey adds a slot for key to a container, which may be open. auth opens it now. number is that of the new slot; negative: the lowest free one. kdf
// must fit the key: luks.KDFRandomKey for random bytes alone. Nothing else is changed.
//
// Errors: luks.ErrWrongKey, luks.ErrNoSlot (of auth), luks.ErrSlotOccupied, ErrNoSlot, luks.ErrKeyLength: nothing was written. *ProofError and all others
// after the first write: the new slot is gone again, unless the error says so.
func AddKey(ctx context.Context, c Container, auth luks.Auth, number int, key *secret.Key, kdf luks.KDF) (*Changed, error) {
	r, err := addKey(ctx, c, auth, number, key, kdf, -1)
	if err != nil {
		return nil, fmt.Errorf("add a key: %w", err)
	}
	return r, nil
}

// ReplaceKey gives the slot that auth opens a successor with another key, proves that, and destroys the old one. Errors are those of AddKey, and
// ErrManaged of the old slot: then, too, nothing was written.
func ReplaceKey(ctx context.Context, c Container, auth luks.Auth, key *secret.Key, kdf luks.KDF) (*Changed, error) {
	r, err := replaceKey(ctx, c, auth, key, kdf)
	if err != nil {
		return nil, fmt.Errorf("replace the key of slot %d: %w", auth.Slot, err)
	}
	return r, nil
}

func replaceKey(ctx context.Context, c Container, auth luks.Auth, key *secret.Key, kdf luks.KDF) (*Changed, error) {
	h, err := c.Header()
	if err != nil {
		return nil, err
	}
	old, ok := h.Keyslots[auth.Slot]
	switch {
	case !ok:
		return nil, luks.ErrNoSlot
	case claimed(h, auth.Slot):
		return nil, ErrManaged
	case auth.Key.Equal(key):
		return nil, errors.New("the new key is the old one")
	}
	r, err := addKey(ctx, c, auth, -1, key, kdf, auth.Slot)
	if err != nil {
		return nil, err
	}
	if p, ok := c.(preferrer); ok && old.Priority != nil && *old.Priority == preferred {
		if err := p.PreferSlot(r.NewSlot); err != nil {
			return nil, err
		}
	}
	w, err := write(c, nil)
	if err != nil {
		return nil, err
	}
	defer w.close()
	if err := w.kill(auth.Slot, old.KDF.Salt, -1); err != nil {
		return nil, err
	}
	crashpoint.Hit("replace.destroyed")
	r.OldSlot, r.OldKDF = auth.Slot, Cost(old.KDF)
	return r, compareSlots(c, h, auth.Slot)
}

// preferred is a slot that others try first.
const preferred = 2

func addKey(ctx context.Context, c Container, auth luks.Auth, number int, key *secret.Key, kdf luks.KDF, but int) (*Changed, error) {
	// Before anything is written: what opens it now does. It also mends a damaged copy of the header.
	if err := c.TestSlot(auth.Slot, auth.Key); err != nil {
		return nil, err
	}
	h, err := c.Header()
	if err != nil {
		return nil, err
	}
	if known, err := Opens(c, h, key, but); err == nil && (number < 0 || known == number) {
		return changed(h, known, true), settleKey(c, known, key)
	} else if err != nil && !errors.Is(err, luks.ErrWrongKey) {
		return nil, err
	}
	if number < 0 {
		if number, err = lowestFree(h); err != nil {
			return nil, err
		}
	}
	if _, taken := h.Keyslots[number]; taken {
		return nil, luks.ErrSlotOccupied
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w, err := write(c, nil)
	if err != nil {
		return nil, err
	}
	defer w.close()
	err = w.AddSlot(auth, number, key, kdf)
	if err == nil {
		crashpoint.Hit("key.added")
		err = w.settle(number, key)
	}
	if err == nil {
		crashpoint.Hit("key.proven")
		err = compareSlots(c, h, -1)
	}
	after, err2 := c.Header()
	if err != nil {
		return nil, w.takeBack(h, after, number, err)
	}
	if err2 != nil {
		return nil, err2
	}
	return changed(after, number, false), nil
}

func changed(h *header.Header, number int, resumed bool) *Changed {
	return &Changed{UUID: h.UUID, NewSlot: number, OldSlot: -1, NewKDF: Cost(h.Keyslots[number].KDF), ProvedBy: provers, Resumed: resumed}
}

// settleKey is settle for a slot that is there already.
func settleKey(c Container, number int, key *secret.Key) error {
	w, err := write(c, nil)
	if err != nil {
		return err
	}
	defer w.close()
	return w.settle(number, key)
}

// takeBack destroys a new slot after cause, if it is the one that was made here.
func (w *writer) takeBack(before, after *header.Header, number int, cause error) error {
	if after == nil {
		return cause
	}
	slot, there := after.Keyslots[number]
	if _, was := before.Keyslots[number]; was || !there {
		return cause
	}
	if err := w.kill(number, slot.KDF.Salt, -1); err != nil {
		return fmt.Errorf("%w; the new slot %d could not be taken back: %w", cause, number, err)
	}
	return cause
}

// RemoveKey destroys a slot that no token names, once other has shown that another slot opens, by both implementations. Of the last slot other must be
// nil and last true: nothing opens the container then, for ever, but a backup of its header.
//
// Errors: luks.ErrNoSlot, luks.ErrLastSlot, ErrManaged, ErrUntested, *ProofError: nothing was written. F31
func RemoveKey(ctx context.Context, c Container, number int, other *luks.Auth, last bool) error {
	if err := removeKey(ctx, c, number, other, last); err != nil {
		return fmt.Errorf("remove key slot %d: %w", number, err)
	}
	return nil
}

// lastKiller is a container of which the last slot can be destroyed.
type lastKiller interface{ KillLastSlot(slot int) error }

func removeKey(ctx context.Context, c Container, number int, other *luks.Auth, last bool) error {
	h, err := c.Header()
	if err != nil {
		return err
	}
	slot, ok := h.Keyslots[number]
	switch {
	case !ok:
		return luks.ErrNoSlot
	case claimed(h, number):
		return ErrManaged
	case len(h.Keyslots) == 1:
		k, ok := c.(lastKiller)
		if !last || !ok || other != nil {
			return luks.ErrLastSlot
		}
		w, err := write(c, nil)
		if err != nil {
			return err
		}
		defer w.close()
		if err := k.KillLastSlot(number); err != nil {
			return err
		}
		return w.sync()
	case other == nil || other.Slot == number:
		return ErrUntested
	}
	if err := Prove(c, other.Slot, other.Key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	w, err := write(c, nil)
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.kill(number, slot.KDF.Salt, -1); err != nil {
		return err
	}
	crashpoint.Hit("key.removed")
	return compareSlots(c, h, number)
}

// Removable says whether RemoveKey would take a slot away, given a key of another one.
func Removable(h *header.Header, number int) bool {
	_, ok := h.Keyslots[number]
	return ok && !claimed(h, number) && len(h.Keyslots) > 1
}

// claimed says whether a slot is somebody's by a token: one that names it, or the journal of a rotation that has not ended.
func claimed(h *header.Header, number int) bool {
	slots, _ := State(h)
	return named(h, number) || slots.Pending.made(number, h.Keyslots[number])
}

// Opens finds the slot that a key opens, among those that no token of voluks names and but the one given; negative: all. luks.ErrWrongKey if there is
// none. Each try may take seconds.
func Opens(c Container, h *header.Header, key *secret.Key, but int) (int, error) {
	slots, _ := State(h) // a token that cannot be understood protects nothing here: the slots are only tried
	for _, number := range slices.Sorted(maps.Keys(h.Keyslots)) {
		managed := slices.ContainsFunc(slots.Slots, func(s Slot) bool { return s.Number == number && s.Managed })
		if managed || number == but {
			continue
		}
		if err := c.TestSlot(number, key); err == nil || !errors.Is(err, luks.ErrWrongKey) {
			return number, err
		}
	}
	return -1, luks.ErrWrongKey
}

func lowestFree(h *header.Header) (int, error) {
	for n := range header.MaxKeyslots {
		if _, taken := h.Keyslots[n]; !taken {
			return n, nil
		}
	}
	return 0, ErrNoSlot
}

// Cost is a key derivation in a few words.
func Cost(k header.KDF) string {
	if k.Type == "pbkdf2" {
		return fmt.Sprintf("%s-%s, %d iterations", k.Type, k.Hash, k.Iterations)
	}
	return fmt.Sprintf("%s, %d passes of %d MiB, %d lanes", k.Type, k.Time, k.Memory>>10, k.CPUs)
}
