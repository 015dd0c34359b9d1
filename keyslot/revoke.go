// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/voluks/voluks/internal/kek"
)

// ErrStillActive: the key that is to be revoked is the one that wraps now.
var ErrStillActive = errors.New("this key is the active one: configure another one as [kek], and this one under [[previous]]")

// WrappedBy says whether the slot key was ever wrapped by a key of that ID, of whatever provider. Who has
// the key and any copy of the header from then has the slot key.
func (s Slot) WrappedBy(id string) bool {
	for _, ref := range s.History {
		if ref.ID == id {
			return true
		}
	}
	return s.KEK.ID == id && id != ""
}

// formerOf are the keys that will have wrapped earlier slot keys once these agent slots, the newest first, have a successor.
func formerOf(agent []AgentToken) []kek.Ref {
	var refs []kek.Ref
	for _, t := range agent {
		for _, ref := range slices.Concat(t.History, t.Former) {
			if !slices.ContainsFunc(refs, ref.SameKey) {
				refs = append(refs, ref)
			}
		}
	}
	return refs[:min(len(refs), maxFormer)]
}

// ExposedTo says whether a key of that ID has ever wrapped any slot key of this volume: who has that key and a copy of the header from its time has
// the volume key.
func (s Slot) ExposedTo(id string) bool {
	return s.WrappedBy(id) || slices.ContainsFunc(s.Former, func(ref kek.Ref) bool { return ref.ID == id })
}

// NeedsKey says whether the header needs the key ref to be opened by the node: some token is wrapped by
// it, that of an interrupted rotation included.
func (s *Slots) NeedsKey(ref kek.Ref) bool {
	for _, t := range s.agent {
		if t.KEK.SameKey(ref) {
			return true
		}
	}
	return s.Pending != nil && s.Pending.Agent != nil && s.Pending.Agent.KEK.SameKey(ref)
}

// Keys are the keys that the header needs to be opened by the node, without versions.
func (s *Slots) Keys() []kek.Ref {
	var refs []kek.Ref
	add := func(t *AgentToken) {
		ref := kek.Ref{Provider: t.KEK.Provider, ID: t.KEK.ID}
		for _, have := range refs {
			if have == ref {
				return
			}
		}
		refs = append(refs, ref)
	}
	for i := range s.agent {
		add(&s.agent[i])
	}
	if s.Pending != nil && s.Pending.Agent != nil {
		add(s.Pending.Agent)
	}
	return refs
}

// Revoke rotates the agent slot if its key was ever wrapped by the key of that ID. The header as it is
// then does not open with it any more; a copy of the header from before does, since the volume key is the
// same, and only reencrypting helps against that. An interrupted rotation is ended first. It returns what
// was rotated last, nil if nothing was. It can be repeated until it succeeds. Errors are those of Rotate,
// and ErrStillActive.
func Revoke(ctx context.Context, c Container, k *Keyring, id string) (*Rotated, error) {
	if k.KEK.Active.Ref().ID == id {
		return nil, ErrStillActive
	}
	found, err := recoverWith(ctx, c, k, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("revoke a key: %w", err)
	}
	last := found.Finished
	// An interrupted rotation that is finished may have been wrapped by the leaked key too.
	for range 2 {
		exposed, err := isExposed(c, id)
		if err != nil || !exposed {
			return last, err
		}
		if last, err = Rotate(ctx, c, k, RoleAgent); err != nil {
			return nil, err
		}
	}
	exposed, err := isExposed(c, id)
	if err == nil && exposed {
		err = fmt.Errorf("the slot key is still one that the key %s has wrapped", id)
	}
	return last, err
}

func isExposed(c Container, id string) (bool, error) {
	h, err := c.Header()
	if err != nil {
		return false, err
	}
	slots, err := State(h)
	if err != nil {
		return false, err
	}
	if len(slots.agent) == 0 {
		return false, ErrNoAgentSlot
	}
	for _, slot := range slots.Slots {
		if slot.Role == RoleAgent && slot.WrappedBy(id) {
			return true, nil
		}
	}
	return slots.Pending != nil && slots.Pending.Agent != nil && Slot{History: slots.Pending.Agent.History}.WrappedBy(id), nil
}
