// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// The order of writes of Adopt, what a crash after each of them leaves, and what the next Adopt makes of it. The device opens by its own slots throughout.
//
//	0 nothing        the device as it was                      nothing
//	1 pending token  the journal: target slot, key, salts      takes it away, and begins anew
//	2 agent slot     a slot that only the journal knows        proves and publishes it, or, if it does not open, destroys it and begins anew
//	  sync, proof    the same
//	  preference     the same
//	3 publication    everything                                nothing

// Adopted is what Adopt did. It holds nothing secret.
type Adopted struct {
	UUID string `json:"uuid"` // of the LUKS header
	Slot int    `json:"slot"` // the agent slot
	Made bool   `json:"made"` // false: it was there already
}

// Adopt gives a container that somebody else formatted an agent slot, so that this node can open it by its key provider: what systemd-cryptsetup asks
// the key socket for. auth is a key of the container and its slot. Nothing else of the container is changed: no slot, no token, no data. It may be
// open. A container that has an agent slot which opens is left as it is.
//
// Errors: those of the key provider and of State; luks.ErrWrongKey, luks.ErrNoSlot (of auth); ErrNoSlot, *TooLargeError: nothing was written; *ProofError:
// the new slot does not open, and is gone again. A *header.StrictError is a container of a kind that voluks does not handle.
func Adopt(ctx context.Context, c Container, k *Keyring, auth luks.Auth) (Adopted, error) {
	a, err := adopt(ctx, c, k, auth)
	if err != nil {
		return Adopted{}, fmt.Errorf("adopt: %w", err)
	}
	return a, nil
}

func adopt(ctx context.Context, c Container, k *Keyring, auth luks.Auth) (Adopted, error) {
	h, err := c.Header()
	if err != nil {
		return Adopted{}, err
	}
	slots, err := State(h)
	if err != nil {
		return Adopted{}, err
	}
	if len(slots.agent) > 0 {
		return Adopted{h.UUID, slots.agent[0].Slot, false}, proveAgent(ctx, c, k, &slots)
	}
	// Before anything is written or taken away: there is another way in. It also mends a damaged copy of the header.
	if err := c.TestSlot(auth.Slot, auth.Key); err != nil {
		return Adopted{}, err
	}
	if slots.Pending != nil {
		done, err := resumeAdoption(ctx, c, k, h, &slots)
		if err != nil || done.Slot >= 0 {
			return done, err
		}
		if h, err = c.Header(); err != nil {
			return Adopted{}, err
		}
	}
	number, err := freeSlot(h)
	if err != nil {
		return Adopted{}, err
	}
	agent, err := k.newAgent(ctx, h.UUID, number, 1)
	if err != nil {
		return Adopted{}, err
	}
	defer agent.key.Wipe()
	pending, err := adoptionJournal(h, agent)
	if err != nil {
		return Adopted{}, err
	}
	if err := room(h, -1, pending); err != nil {
		return Adopted{}, err
	}
	if err := ctx.Err(); err != nil {
		return Adopted{}, err
	}
	if err := runAdoption(c, k, auth, agent, pending); err != nil {
		return Adopted{}, clearAdoption(ctx, c, k, err)
	}
	return Adopted{h.UUID, number, true}, compareSlots(c, h, -1)
}

// preferrer is a container that others can be made to try one slot first of. What was interrupted goes without: it is slower then.
type preferrer interface{ PreferSlot(slot int) error }

func prefer(c Container, slot int) error {
	if p, ok := c.(preferrer); ok {
		return p.PreferSlot(slot)
	}
	return nil
}

// adopted says whether a container is one that somebody else formatted: it has an agent slot without the token of a volume, and is complete all the same.
func adopted(c Container) bool {
	f, ok := c.(interface{ Foreign() bool })
	return ok && f.Foreign()
}

func adoptionJournal(h *header.Header, agent *enrolment) ([]byte, error) {
	decoded, err := decode(agent.token)
	if err != nil {
		return nil, err
	}
	token, ok := decoded.(AgentToken)
	if !ok {
		return nil, errors.New("not the token of an agent slot")
	}
	t := PendingToken{UUID: h.UUID, Operation: rand.Text(), Agent: &token}
	for _, n := range slices.Sorted(maps.Keys(h.Keyslots)) {
		t.Salts = append(t.Salts, h.Keyslots[n].KDF.Salt)
	}
	return t.Encode()
}

func runAdoption(c Container, k *Keyring, auth luks.Auth, agent *enrolment, pending []byte) error {
	w, err := write(c, k)
	if err != nil {
		return err
	}
	defer w.close()
	id, err := w.SetToken(-1, pending)
	if err != nil {
		return err
	}
	if err := w.sync(); err != nil {
		return err
	}
	w.hit("adopt.pending")
	if err := w.AddSlot(auth, agent.slot, agent.key, luks.KDFRandomKey); err != nil {
		return err
	}
	w.hit("adopt.added")
	if err := w.settle(agent.slot, agent.key); err != nil {
		return err
	}
	w.hit("adopt.proven")
	if err := prefer(c, agent.slot); err != nil {
		return err
	}
	return w.publish(id, agent.token)
}

// clearAdoption takes back what there is of an adoption that failed with cause, if the disk can still be relied on.
func clearAdoption(ctx context.Context, c Container, k *Keyring, cause error) error {
	var failed *syncError
	if errors.As(cause, &failed) {
		return cause
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearUpTime)
	defer cancel()
	h, err := c.Header()
	if err == nil {
		var slots Slots
		if slots, err = State(h); err == nil && slots.Pending != nil {
			_, err = resumeAdoption(ctx, c, k, h, &slots)
		}
	}
	if err != nil {
		return fmt.Errorf("%w; put the header in order: %w", cause, err)
	}
	return cause
}

// resumeAdoption publishes the slot of an adoption that was interrupted if it opens, and else takes back what there is of it; the slot is -1 then. The
// caller has shown that another slot opens.
func resumeAdoption(ctx context.Context, c Container, k *Keyring, h *header.Header, slots *Slots) (Adopted, error) {
	w, err := write(c, k)
	if err != nil {
		return Adopted{}, err
	}
	defer w.close()
	t := slots.Pending
	if t.Agent == nil {
		return Adopted{}, ErrNoAgentSlot
	}
	id := slots.tokens[tokenKey(TypePending, -1)]
	slot, there := h.Keyslots[t.Slot()]
	if !there || !t.made(t.Slot(), slot) || named(h, t.Slot()) {
		return Adopted{Slot: -1}, w.remove(id)
	}
	doubt, err := w.provePending(ctx, k, slots, nil) // it asks the provider for the key
	if err != nil {
		return Adopted{}, err
	}
	if doubt == nil {
		token, err := t.publish()
		if err != nil {
			return Adopted{}, err
		}
		return Adopted{h.UUID, t.Slot(), true}, w.publish(id, token)
	}
	if doubt.ours || ourProfile(slot) {
		if err := w.kill(t.Slot(), slot.KDF.Salt, id); err != nil {
			return Adopted{}, err
		}
	}
	return Adopted{Slot: -1}, w.remove(id)
}

// compareSlots checks that the slots that were there, but one, are as they were (F31 F35).
func compareSlots(c Container, before *header.Header, but int) error {
	h, err := c.Header()
	if err != nil {
		return err
	}
	for number, was := range before.Keyslots {
		if number == but {
			continue
		}
		if is, ok := h.Keyslots[number]; !ok || !slices.Equal(is.KDF.Salt, was.KDF.Salt) {
			return fmt.Errorf("key slot %d, which this does not concern, has changed meanwhile", number)
		}
	}
	return nil
}
