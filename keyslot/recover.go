// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"context"
	"errors"
	"fmt"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/luks"
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
	found, err := recoverWith(ctx, c, k, nil, nil)
	if err != nil {
		return found, fmt.Errorf("recover an interrupted rotation: %w", err)
	}
	return found, nil
}

// Interrupted says whether there is something for Recover.
func (s *Slots) Interrupted() bool {
	return s.Pending != nil || len(s.agent) > 1 || len(s.recovery) > 1 || len(s.spent) > 0
}

// recoverWith is Recover; known is the key of the pending slot if this process has it, and stay the slot that
// stands in for an agent slot which does not open (see rescue), or nil.
func recoverWith(ctx context.Context, c Container, k *Keyring, known *secret.Key, stay *luks.Auth) (found Recovered, err error) {
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
	case len(slots.agent) == 0 && stay == nil:
		return found, ErrNoAgentSlot
	}
	w, err := write(c, k)
	if err != nil {
		return found, err
	}
	defer w.close()
	if slots.Pending != nil {
		if found, err = w.settlePending(ctx, k, h, &slots, known, stay); err != nil {
			return found, err
		}
		if h, err = c.Header(); err != nil {
			return found, err
		}
		if slots, err = State(h); err != nil {
			return found, err
		}
	}
	var ended *Rotated
	// While the node opens no agent slot, nobody can say which of them is good: they all stay until there is a new one.
	if stay == nil || len(slots.agent) > 0 && proveAgent(ctx, c, k, &slots) == nil {
		if ended, err = w.retireOlder(ctx, k, h, &slots); err != nil {
			return found, err
		}
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
func (w *writer) settlePending(ctx context.Context, k *Keyring, h *header.Header, slots *Slots, known *secret.Key, stay *luks.Auth) (found Recovered, err error) {
	t := slots.Pending
	id := slots.tokens[tokenKey(TypePending, -1)]
	slot, there := h.Keyslots[t.Slot()]
	switch {
	case !there:
	case !t.made(t.Slot(), slot) || named(h, t.Slot()):
		found.Left = append(found.Left, t.Slot())
	default:
		if stay != nil {
			err = Prove(w, stay.Slot, stay.Key)
		} else {
			err = proveAgent(ctx, w, k, slots)
		}
		if err != nil {
			return found, err
		}
		proven, err := w.provePending(ctx, k, slots, known)
		if err != nil && stay != nil && ctx.Err() == nil {
			proven, err = &doubtful{}, nil // who could open it is gone, and it is made anew
		}
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
	if key == nil && t.Typed != nil {
		return &doubtful{}, nil // a person may have it, who was told that it counts for nothing
	}
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
	if len(slots.agent) == 0 {
		return nil, ErrNoAgentSlot
	}
	agent := slots.agent[0]
	w, err := k.KEK.Unwrap(ctx, kek.Binding{VolumeUUID: agent.UUID, Role: RoleAgent}, agent.KEK, agent.Wrap)
	if err != nil {
		return nil, err
	}
	defer w.Wipe()
	return unseal(w, t.Sealed, t.UUID, RoleRecovery, t.Recovery.Generation)
}

// rescue is the recovery slot with its key, proven, if somebody lends an identity and the node cannot open the agent slot by itself; else nil. It stands
// in for the agent slot. The caller wipes the key.
func (k *Keyring) rescue(ctx context.Context, c Container, role string) (*luks.Auth, error) {
	if len(k.Identities) == 0 || role == RoleRecovery {
		return nil, nil
	}
	h, err := c.Header()
	if err != nil {
		return nil, err
	}
	slots, err := State(h)
	if err != nil {
		return nil, err
	}
	reason := ErrNoAgentSlot
	if len(slots.agent) > 0 {
		if reason = proveAgent(ctx, c, k, &slots); reason == nil {
			return nil, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	slot, key, err := UnlockRecovery(c, k.Identities)
	if err != nil {
		return nil, errors.Join(reason, err)
	}
	if err := Prove(c, slot, key); err != nil {
		key.Wipe()
		return nil, err
	}
	return &luks.Auth{Slot: slot, Key: key}, nil
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
			ended.OldSlot, ended.OldGeneration, ended.OldRecipients = old.slot, old.generation, old.recipients
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
			ended.OldGeneration, ended.OldRecipients = saidOf(token)
		}
	}
	return ended, nil
}
