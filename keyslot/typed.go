// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/voluks/voluks/internal/recovery/typable"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/luks/header"
)

// RoleTyped is what receipts call a slot for a recovery key that a person types. It has systemd's token and none of ours, so that systemd's tools know it.
const RoleTyped = typable.TokenType

// TypedToken is the token of such a slot.
type TypedToken struct{ Slot int }

// typedSlot is the slot that a token names, if the token is exactly systemd's.
func typedSlot(raw []byte) (slot int, ok bool) {
	for slot = range header.MaxKeyslots {
		if sameJSON(raw, typable.Token(slot)) {
			return slot, true
		}
	}
	return 0, false
}

// AddTyped adds a slot for a recovery key that a person has already, of typable.Generate; it is borrowed. The order of writes, what a crash after each of
// them leaves, and what Recover makes of it:
//
//	0 nothing        the volume as it was                        nothing
//	1 pending token  the journal: target slot, salts             takes it away again
//	2 new slot       a slot that only the journal knows          destroys it, and takes the journal away
//	  sync, proof    the same
//	3 publication    everything                                  nothing
//
// The key is nowhere but with the person, so that up to 3 it counts for nothing. Errors are those of Rotate.
func AddTyped(ctx context.Context, c Container, k *Keyring, key *secret.Key) (*Rotated, error) {
	r, err := addTyped(ctx, c, k, key)
	if err != nil {
		return nil, fmt.Errorf("add a recovery key: %w", err)
	}
	return r, nil
}

func addTyped(ctx context.Context, c Container, k *Keyring, key *secret.Key) (*Rotated, error) {
	normal, err := typable.Parse(key.Bytes())
	if err != nil {
		return nil, err
	}
	defer normal.Wipe()
	if !normal.Equal(key) {
		return nil, fmt.Errorf("%w: it is not in its normal form", typable.ErrMistyped)
	}
	started := k.now()
	stay, err := k.rescue(ctx, c, RoleTyped)
	if err != nil {
		return nil, err
	}
	if stay != nil {
		defer stay.Key.Wipe()
	}
	found, err := recoverWith(ctx, c, k, nil, stay)
	if err != nil {
		return nil, err
	}
	h, err := c.Header()
	if err != nil {
		return nil, err
	}
	slots, err := State(h)
	if err != nil {
		return nil, err
	}
	number, err := freeSlot(h)
	if err != nil {
		return nil, err
	}
	p, w, err := k.opening(ctx, c, h, &slots, stay)
	if err != nil {
		return nil, err
	}
	w.Wipe()
	defer p.wipe()
	own, err := key.Clone()
	if err != nil {
		return nil, err
	}
	p.new = &enrolment{slot: number, key: own, token: typable.Token(number)}
	t := p.begin(h, RoleTyped, started)
	t.Typed = &TypedToken{Slot: number}
	if p.pending, err = t.Encode(); err != nil {
		return nil, err
	}
	if err := room(h, -1, p.pending); err != nil {
		return nil, err
	}
	p.receipt.Left = found.Left
	return p.do(ctx, c, k)
}

// TypedSlots are the slots for recovery keys that a person types, ours and systemd's, which cannot be told apart.
func TypedSlots(h *header.Header) []int {
	var all []int
	for _, token := range h.Tokens {
		if token.Type == typable.TokenType {
			all = append(all, token.Keyslots...)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// RemoveTyped destroys the slot of a recovery key that a person types, and its token. The order of writes and what a crash after each of them leaves:
//
//	0 nothing      the volume as it was
//	1 slot gone    a token that names no slot, which the next RemoveTyped removes; the key opens nothing
//	2 token gone   everything
//
// A slot that opens otherwise is proven first. Errors are those of Rotate; ErrNoTyped.
func RemoveTyped(ctx context.Context, c Container, k *Keyring, slot int) error {
	if err := removeTyped(ctx, c, k, slot); err != nil {
		return fmt.Errorf("remove the recovery key of slot %d: %w", slot, err)
	}
	return nil
}

func removeTyped(ctx context.Context, c Container, k *Keyring, slot int) error {
	stay, err := k.rescue(ctx, c, RoleTyped)
	if err != nil {
		return err
	}
	if stay != nil {
		defer stay.Key.Wipe()
	}
	if _, err := recoverWith(ctx, c, k, nil, stay); err != nil {
		return err
	}
	h, err := c.Header()
	if err != nil {
		return err
	}
	slots, err := State(h)
	if err != nil {
		return err
	}
	if stay == nil {
		if len(slots.agent) == 0 {
			return ErrNoAgentSlot
		}
		if err := proveAgent(ctx, c, k, &slots); err != nil {
			return err
		}
	}
	w, err := write(c, k)
	if err != nil {
		return err
	}
	defer w.close()
	killed, tidied := false, false
	for _, id := range slices.Sorted(maps.Keys(h.Tokens)) {
		token := h.Tokens[id]
		switch {
		case token.Type != typable.TokenType:
			continue
		case len(token.Keyslots) == 0: // what is left of a removal that was interrupted
			tidied = true
		case !killed && slices.Equal(token.Keyslots, []int{slot}):
			if err := w.kill(slot, h.Keyslots[slot].KDF.Salt, id); err != nil {
				return err
			}
			w.hit("typed.destroyed")
			killed = true
		default:
			continue
		}
		if err := w.remove(id); err != nil {
			return err
		}
	}
	if !killed && !tidied {
		return ErrNoTyped
	}
	return nil
}

// ErrNoTyped: the slot is not one of a recovery key that is typed.
var ErrNoTyped = errors.New("no token says that there is one")
