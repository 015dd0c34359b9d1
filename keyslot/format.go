// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// The order of writes of Format, what a crash after each of them leaves, and who mends it:
//
//	0 nothing            what was there before                               Format
//	1 crypt_format       several writes of libcryptsetup: torn copies of the
//	                     header, or our UUID without a slot                  Format, if a copy is readable
//	2 slot 31            our UUID and a slot whose key is lost               Format
//	  sync, proof        the same
//	3 agent token        a container that this node opens                    Complete
//	4 slot 30            the same, and a slot whose key is lost              Complete, which kills it first
//	  sync, proof        the same
//	5 recovery token     everything                                          nobody: Complete finds it so
//
// A token is written only after its slot is durable and proven, so that a token stands for a slot that
// opens. A container without a token was never opened by anybody and is formatted again; one with a
// token never is. Between 3 and 5 nothing but voluks can have added a slot: nobody else has a key, and
// the volume token, without which the volume is not used, is not there yet. That is why, and only
// then, a slot without token may be killed.

// Format makes the container with both managed slots: the agent's in slot 31, that of the recovery
// identity in slot 30. Slot and key of p are set here. All that can fail elsewhere is done before the
// first write: the key provider wraps, and unwraps what it has wrapped.
//
// It formats over what has no LUKS header, which the caller knows to be blank, and over what an
// interrupted Format of the same UUID has left; everything else is ErrNotOurs. With ErrNoRecovery,
// *TooLargeError or an error of the provider nothing was written. After other errors see the table.
func Format(ctx context.Context, c Container, k *Keyring, p luks.FormatParams) error {
	if err := format(ctx, c, k, p); err != nil {
		return fmt.Errorf("format with key slots: %w", err)
	}
	return nil
}

func format(ctx context.Context, c Container, k *Keyring, p luks.FormatParams) error {
	if err := k.ready(); err != nil {
		return err
	}
	if err := formattable(c, p.UUID); err != nil {
		return err
	}
	agent, err := k.newAgent(ctx, p.UUID, topSlot, 1)
	if err != nil {
		return err
	}
	defer agent.key.Wipe()
	written := [][]byte{agent.token}
	rescue, err := k.newRecovery(p.UUID, topSlot-1, 1)
	if err != nil {
		return err
	}
	if rescue != nil {
		defer rescue.key.Wipe()
		written = append(written, rescue.token)
	}
	if err := room(&header.Header{}, -1, append(written, make([]byte, volumeReserve))...); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}

	w, err := write(c, k)
	if err != nil {
		return err
	}
	defer w.close()
	p.Slot, p.Key = agent.slot, agent.key
	if err := w.Format(p); err != nil {
		return err
	}
	if err := w.settle(agent.slot, agent.key); err != nil {
		return err
	}
	if err := w.token(-1, agent.token); err != nil {
		return err
	}
	if rescue != nil {
		if err := w.enrol(agent, rescue); err != nil {
			return err
		}
	}
	return readBack(c, written...)
}

// volumeReserve is the room that is kept for the volume's own token, which is not known yet.
const volumeReserve = 2 << 10

// formattable says whether there is nothing that could be somebody's.
func formattable(c Container, uuid string) error {
	h, err := c.Header()
	switch {
	case errors.Is(err, header.ErrNotLUKS):
		return nil
	case errors.Is(err, header.ErrLUKS1), errors.Is(err, header.ErrDamaged):
		return fmt.Errorf("%w: %w", ErrNotOurs, err)
	case err != nil:
		return err
	case h.UUID != uuid:
		return fmt.Errorf("%w: it has the UUID %s", ErrNotOurs, h.UUID)
	case len(h.Tokens) > 0:
		return fmt.Errorf("%w: it has tokens", ErrNotOurs)
	}
	return nil
}

// Complete finishes what an interrupted Format has left, once the agent token is written: a missing
// recovery slot is made, a slot whose key was lost is killed first. What is complete, or has the token
// of a volume, is not touched. It can be repeated until it succeeds.
//
//	write               | a crash after it leaves
//	nothing             | an agent slot, perhaps a slot whose key is lost
//	kill the lost slot  | an agent slot
//	recovery slot       | an agent slot and a slot whose key is lost
//	  sync, proof       | the same
//	recovery token      | everything
//
// Errors are those of Unlock and of Format; ErrNoAgentSlot if there is nothing to complete.
func Complete(ctx context.Context, c Container, k *Keyring) error {
	if err := complete(ctx, c, k); err != nil {
		return fmt.Errorf("complete key slots: %w", err)
	}
	return nil
}

func complete(ctx context.Context, c Container, k *Keyring) error {
	h, err := c.Header()
	if err != nil {
		return err
	}
	slots, err := State(h)
	switch {
	case err != nil:
		return err
	case len(slots.agent) == 0:
		return ErrNoAgentSlot
	case slots.Volume != nil:
		return nil
	}
	lost := slots.lost(h)
	wanted := len(slots.recovery) == 0 && !k.NoRecovery
	if len(lost) == 0 && !wanted {
		return nil
	}
	if wanted {
		if err := k.ready(); err != nil {
			return err
		}
	}
	slot, key, err := Unlock(ctx, c, k)
	if err != nil {
		return err
	}
	agent := &enrolment{slot: slot, key: key}
	defer agent.key.Wipe()
	if err := Prove(c, slot, key); err != nil { // before anything is taken away
		return err
	}
	var rescue *enrolment
	if wanted {
		for _, n := range lost {
			delete(h.Keyslots, n) // free by the time it is needed
		}
		number, err := freeSlot(h)
		if err != nil {
			return err
		}
		if rescue, err = k.newRecovery(h.UUID, number, slots.highest()); err != nil {
			return err
		}
		defer rescue.key.Wipe()
		if err := room(h, -1, rescue.token, make([]byte, volumeReserve)); err != nil {
			return err
		}
	}

	w, err := write(c, k)
	if err != nil {
		return err
	}
	defer w.close()
	for _, n := range lost {
		if err := w.KillSlot(n); err != nil {
			return err
		}
	}
	if rescue == nil {
		return w.syncer.Sync()
	}
	if err := w.enrol(agent, rescue); err != nil {
		return err
	}
	return readBack(c, rescue.token)
}

// lost are the slots of an incomplete container whose keys went with the process that made them. A
// header with tokens of others was not left by Format alone: nothing is lost there.
func (s *Slots) lost(h *header.Header) []int {
	for _, token := range h.Tokens {
		if token.Type != TypeAgent && token.Type != TypeRecovery {
			return nil
		}
	}
	var lost []int
	for _, slot := range s.Slots {
		if slot.Kind == KindUnclaimed {
			lost = append(lost, slot.Number)
		}
	}
	return lost
}

// An enrolment is a slot with its key and the token that will name it.
type enrolment struct {
	slot  int
	key   *secret.Key // the owner of the enrolment wipes it
	token []byte
}

// newAgent makes a slot key and its token; former are the keys that have wrapped earlier slot keys. Nothing is written.
func (k *Keyring) newAgent(ctx context.Context, uuid string, slot int, generation uint64, former ...kek.Ref) (*enrolment, error) {
	b := kek.Binding{VolumeUUID: uuid, Role: RoleAgent}
	w, wrap, ref, err := k.KEK.Generate(ctx, b)
	if err != nil {
		return nil, err
	}
	defer w.Wipe()
	// A provider that wraps and cannot unwrap is found out now, not at the next boot (F29 F39).
	again, err := k.KEK.Unwrap(ctx, b, ref, wrap)
	if err != nil {
		return nil, err
	}
	defer again.Wipe()
	if !again.Equal(w) {
		return nil, fmt.Errorf("unwrap what was just wrapped with %v: %w", ref, kek.ErrWrongKey)
	}
	key, err := secret.Random(KeySize)
	if err != nil {
		return nil, err
	}
	token := AgentToken{
		Slot: slot, UUID: uuid, Generation: generation, KEK: ref, Wrap: wrap,
		History: []kek.Ref{{Provider: ref.Provider, ID: ref.ID}}, Former: slices.DeleteFunc(former, ref.SameKey), Created: k.now(),
	}
	var encoded []byte
	if token.Sealed, err = seal(w, key, uuid, RoleAgent, generation); err == nil {
		encoded, err = token.Encode()
	}
	if err != nil {
		key.Wipe()
		return nil, err
	}
	return &enrolment{slot, key, encoded}, nil
}

// newRecovery makes a slot key and its token, or nil if there shall be none. Nothing is written.
func (k *Keyring) newRecovery(uuid string, slot int, generation uint64) (*enrolment, error) {
	if k.NoRecovery {
		return nil, nil
	}
	key, err := secret.Random(KeySize)
	if err != nil {
		return nil, err
	}
	token := RecoveryToken{Slot: slot, UUID: uuid, Generation: generation, Recipients: recovery.Fingerprints(k.Recipients), Created: k.now()}
	var encoded []byte
	if token.Age, err = recovery.Seal(key, k.Recipients); err == nil {
		encoded, err = token.Encode()
	}
	if err != nil {
		key.Wipe()
		return nil, err
	}
	return &enrolment{slot, key, encoded}, nil
}

// enrol adds a slot with the key of another one and publishes it once it is durable and proven.
func (w *writer) enrol(auth, e *enrolment) error {
	if err := w.AddSlot(luks.Auth{Slot: auth.slot, Key: auth.key}, e.slot, e.key, luks.KDFRandomKey); err != nil {
		return err
	}
	if err := w.settle(e.slot, e.key); err != nil {
		return err
	}
	return w.token(-1, e.token)
}
