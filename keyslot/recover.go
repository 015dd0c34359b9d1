// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"context"
	"errors"
	"fmt"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/luks/header"
)

// Recovered is what Recover found and did.
type Recovered struct {
	// Finished is the rotation that was brought to its end, or nil.
	Finished *Rotated
	// Undone names the operation that was taken back, or is empty.
	Undone string
	// Left are slots at the place where an interrupted rotation wanted to make one, and which it cannot
	// be shown to have made. They were not touched.
	Left []int
}

// Recover finishes or takes back what an interrupted rotation has left; the table is in rotate.go. It
// can be repeated until it succeeds, and does nothing to a header that is in order.
//
// A slot is destroyed only while the agent slot is proven to open. The new slot of a rotation that died
// is destroyed only if it was not there before, no token names it, and it opens with the key of the
// journal or has exactly the parameters of our slots; otherwise it is left, and told.
//
// Errors are those of State, of Unlock and *ProofError; nothing was taken away then.
func Recover(ctx context.Context, c Container, k *Keyring) (Recovered, error) {
	found, err := recoverWith(ctx, c, k, nil)
	if err != nil {
		return found, fmt.Errorf("recover an interrupted rotation: %w", err)
	}
	return found, nil
}

// Interrupted says whether there is something for Recover.
func (s *Slots) Interrupted() bool {
	return s.Pending != nil || len(s.agent) > 1 || len(s.recovery) > 1 || len(s.spent) > 0
}

// recoverWith is Recover; known is the key of the pending slot if this process has it.
func recoverWith(ctx context.Context, c Container, k *Keyring, known *secret.Key) (found Recovered, err error) {
	h, err := c.Header()
	if err != nil {
		return found, err
	}
	slots, err := State(h)
	switch {
	case err != nil:
		return found, err
	case !slots.Interrupted():
		return found, nil
	case len(slots.agent) == 0:
		return found, ErrNoAgentSlot
	}
	w, err := write(c, k)
	if err != nil {
		return found, err
	}
	defer w.close()
	if slots.Pending != nil {
		if found, err = w.settlePending(ctx, k, h, &slots, known); err != nil {
			return found, err
		}
		if h, err = c.Header(); err != nil {
			return found, err
		}
		if slots, err = State(h); err != nil {
			return found, err
		}
	}
	ended, err := w.retireOlder(ctx, k, h, &slots)
	if err != nil {
		return found, err
	}
	if ended != nil {
		if found.Finished != nil {
			ended.Operation = found.Finished.Operation
		}
		found.Finished = ended
	}
	if found.Finished != nil {
		found.Finished.Ended, found.Finished.Left = k.now(), found.Left
	}
	return found, nil
}

// settlePending publishes the pending slot, or takes back what there is of it.
func (w *writer) settlePending(ctx context.Context, k *Keyring, h *header.Header, slots *Slots, known *secret.Key) (found Recovered, err error) {
	t := slots.Pending
	id := slots.tokens[tokenKey(TypePending, -1)]
	slot, there := h.Keyslots[t.Slot()]
	switch {
	case !there:
	case !t.made(t.Slot(), slot) || named(h, t.Slot()):
		found.Left = append(found.Left, t.Slot())
	default:
		if err := proveAgent(ctx, w, k, slots); err != nil {
			return found, err
		}
		proven, err := w.provePending(ctx, k, slots, known)
		if err != nil {
			return found, err
		}
		if proven == nil {
			token, err := t.publish()
			if err != nil {
				return found, err
			}
			found.Finished = t.receipt()
			return found, w.publish(id, token)
		}
		if !proven.ours && !ourProfile(slot) {
			found.Left = append(found.Left, t.Slot())
			break
		}
		if err := w.kill(t.Slot(), slot.KDF.Salt, id); err != nil {
			return found, err
		}
	}
	found.Undone = t.Operation
	return found, w.remove(id)
}

// doubtful is a pending slot that cannot be published; ours says that it opens with the key of the
// journal all the same.
type doubtful struct{ ours bool }

// provePending proves the pending slot with the key of the journal. It is nil if the slot is good. The
// error is about the key provider: what may pass is waited for, since the slot may be good.
func (w *writer) provePending(ctx context.Context, k *Keyring, slots *Slots, known *secret.Key) (*doubtful, error) {
	t := slots.Pending
	key := known
	if key == nil {
		var err error
		key, err = k.pendingKey(ctx, slots)
		if errors.Is(err, ErrWrongKey) || errors.Is(err, kek.ErrWrongKey) {
			return &doubtful{}, nil
		}
		if err != nil {
			return nil, err
		}
		defer key.Wipe()
	}
	if err := w.TestSlot(t.Slot(), key); err != nil {
		return &doubtful{}, nil
	}
	if err := w.Witness(t.Slot(), key); err != nil {
		return &doubtful{ours: true}, nil
	}
	return nil, nil
}

// pendingKey is the key of the journal, which the caller wipes.
func (k *Keyring) pendingKey(ctx context.Context, slots *Slots) (*secret.Key, error) {
	t := slots.Pending
	if t.Agent != nil {
		return unlock(ctx, k, *t.Agent)
	}
	agent := slots.agent[0]
	w, err := k.KEK.Unwrap(ctx, kek.Binding{VolumeUUID: agent.UUID, Role: RoleAgent}, agent.KEK, agent.Wrap)
	if err != nil {
		return nil, err
	}
	defer w.Wipe()
	return unseal(w, t.Sealed, t.UUID, RoleRecovery, t.Recovery.Generation)
}

// proveAgent shows that the newest agent slot opens with what the node has.
func proveAgent(ctx context.Context, c Container, k *Keyring, slots *Slots) error {
	key, err := unlock(ctx, k, slots.agent[0])
	if err != nil {
		return fmt.Errorf("unlock the agent slot %d: %w", slots.agent[0].Slot, err)
	}
	defer key.Wipe()
	return Prove(c, slots.agent[0].Slot, key)
}

// retireOlder destroys slots of a role that have a successor, and removes tokens whose slot is gone. It
// returns the rotation that this ends, or nil.
//
// A recovery slot is relied on as published: its key is not on the node, and a token is published only
// after the proof.
func (w *writer) retireOlder(ctx context.Context, k *Keyring, h *header.Header, slots *Slots) (ended *Rotated, err error) {
	if !slots.Interrupted() {
		return nil, nil
	}
	if err := proveAgent(ctx, w, k, slots); err != nil {
		return nil, err
	}
	for _, role := range []string{RoleAgent, RoleRecovery} {
		all := slots.retirees(h, role)
		for i, old := range all {
			if i == 0 {
				continue
			}
			if err := w.retire(old); err != nil {
				return nil, err
			}
			ended = slots.receipt(role)
			ended.OldSlot, ended.OldGeneration = old.slot, old.generation
		}
	}
	for _, id := range slots.spent {
		token := h.Tokens[id]
		if err := w.remove(id); err != nil {
			return nil, err
		}
		role := RoleAgent
		if token.Type == TypeRecovery {
			role = RoleRecovery
		}
		if ended == nil && len(slots.retirees(h, role)) > 0 {
			ended = slots.receipt(role)
			ended.OldGeneration = generationOf(token)
		}
	}
	return ended, nil
}
