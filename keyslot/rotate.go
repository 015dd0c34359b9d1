// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// The order of writes of Rotate, what a crash after each of them leaves, and what Recover makes of it.
// Each is durable before the next, on a descriptor that was opened before the first.
//
//	0 nothing          the volume as it was                              nothing
//	1 pending token    the journal: target slot, its key sealed, salts   takes it away again
//	2 new slot         a slot that only the journal knows                proves it and goes on from 3, or, if it
//	                                                                     does not open, destroys it and goes to 0
//	  sync, proof      the same
//	3 publication      two slots of the role, both with tokens; both     proves the newer one and goes on
//	                   open, and whoever opens takes the newer one
//	4 old slot gone    the new slot, and a token that names none         removes the token
//	5 old token gone   everything                                        nothing
//
// At each point a slot of the role opens, with what the node or the owner of the identity has: up to 3
// the old one, from 3 on the new one, and nothing is retired before the new one is proven by two
// implementations, on what is on the disk past all caches. A voluks that does not know pending tokens
// opens all of them.

// Rotated is what a rotation did, for receipts. It holds nothing secret.
type Rotated struct {
	Operation     string    `json:"operation"`            // id of the operation
	UUID          string    `json:"uuid"`                 // of the LUKS header
	Role          string    `json:"role"`                 // of the slot
	OldSlot       int       `json:"old_slot"`             // -1: there was none, or it is not known any more
	NewSlot       int       `json:"new_slot"`             // its number
	OldGeneration uint64    `json:"old_generation"`       // 0: there was none
	NewGeneration uint64    `json:"new_generation"`       // of its key
	KEK           *kek.Ref  `json:"kek,omitempty"`        // of the agent slot: what wraps W
	Recipients    []string  `json:"recipients,omitempty"` // of the recovery slot
	ProvedBy      []string  `json:"proved_by"`            // implementations that opened the new slot
	Started       time.Time `json:"started"`              // when it began, in this run
	Ended         time.Time `json:"ended"`                // when the old slot was gone
	Resumed       bool      `json:"resumed,omitempty"`    // it was begun by a process that died
	// Rescued says that the recovery identity stood in for the key provider, which could not open the agent slot.
	Rescued bool `json:"rescued,omitempty"`
	// OldRecipients are those of the recovery slot that is gone: with a copy of the header from then their identities still open the volume.
	OldRecipients []string `json:"old_recipients,omitempty"`
	// Left are slots that an interrupted rotation may have made, or somebody else: nobody can tell, so
	// they stay.
	Left []int `json:"left,omitempty"`
}

// provers are who Prove asks.
var provers = []string{"libcryptsetup", "luks.go"}

// Rotate gives the slot of a role a new key, in a new slot, and destroys the old one. The volume may be
// open. A container that was adopted (see Adopt) has an agent slot without being a volume; that slot is
// rotated by the same steps. For the recovery slot the keyring's recipients are those whom the new key is sealed to; where
// there is no such slot yet it is made. A rotation of that role that was interrupted is finished
// instead of begun again, and told as Resumed.
//
// All that can fail elsewhere is done before the first write: the key provider wraps, and unwraps what
// it has wrapped. After an error the volume opens as before; what is left is put in order by this call
// where the disk still answers, else by the next one.
//
// Errors are those of Unlock and of Recover; ErrNotReady, ErrNoRecovery, ErrNoSlot, *TooLargeError,
// *SharedSlotError: nothing was written; *ProofError: the new slot does not open, and is gone again.
func Rotate(ctx context.Context, c Container, k *Keyring, role string) (*Rotated, error) {
	return RotateAbove(ctx, c, k, role, 0)
}

// RotateAbove is Rotate to a generation higher than floor, for a header that is older than what is known
// of its volume. There an interrupted rotation is not enough.
//
// With identities in the keyring an agent slot that the node cannot open is replaced all the same: the recovery
// slot, proven, stands in for it, up to the publication (the table is the same; until 3 it is the identity that
// opens the volume, and from 3 on Recover needs it no more). What an interrupted rotation of old has left is
// taken back then, unless it opens.
func RotateAbove(ctx context.Context, c Container, k *Keyring, role string, floor uint64) (*Rotated, error) {
	r, err := rotate(ctx, c, k, role, floor)
	if err != nil {
		return nil, fmt.Errorf("rotate the %s slot: %w", role, err)
	}
	return r, nil
}

func rotate(ctx context.Context, c Container, k *Keyring, role string, floor uint64) (*Rotated, error) {
	if role != RoleAgent && role != RoleRecovery {
		return nil, fmt.Errorf("there is no role %q", role)
	}
	if role == RoleRecovery && len(k.Recipients) == 0 {
		return nil, ErrNoRecovery
	}
	stay, err := k.rescue(ctx, c, role)
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
	if found.Finished != nil && found.Finished.Role == role && found.Finished.NewGeneration > floor {
		return found.Finished, nil
	}
	p, err := plan(ctx, c, k, role, floor, stay)
	if err != nil {
		return nil, err
	}
	defer p.wipe()
	p.receipt.Left = found.Left
	return p.do(ctx, c, k)
}

// do carries a plan out.
func (p *rotation) do(ctx context.Context, c Container, k *Keyring) (*Rotated, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := p.run(c, k); err != nil {
		return p.clearUp(ctx, c, k, err)
	}
	if p.stay != nil {
		// What else an interrupted rotation has left can be put in order now that the node opens a slot.
		if _, err := recoverWith(ctx, c, k, nil, nil); err != nil {
			return nil, err
		}
	}
	p.receipt.Ended = k.now()
	return &p.receipt, nil
}

// A rotation is one of which nothing is written yet.
type rotation struct {
	auth    luks.Auth
	stay    *luks.Auth // auth, if it is the recovery slot; see rescue
	new     *enrolment
	pending []byte
	old     []retiree
	receipt Rotated
	before  *header.Header
	prefer  bool // others open it too, and are to try the new slot first
}

// A retiree is a slot with its token, both to be taken away.
type retiree struct {
	slot       int
	salt       []byte
	token      int
	generation uint64
	recipients []string
}

func (p *rotation) wipe() {
	p.auth.Key.Wipe()
	if p.new != nil {
		p.new.key.Wipe()
	}
}

// plan makes everything that a rotation writes.
func plan(ctx context.Context, c Container, k *Keyring, role string, floor uint64, stay *luks.Auth) (_ *rotation, err error) {
	started := k.now()
	h, err := c.Header()
	if err != nil {
		return nil, err
	}
	slots, err := State(h)
	switch {
	case err != nil:
		return nil, err
	case slots.Volume == nil && !adopted(c):
		return nil, ErrNotReady
	}
	old := slots.retirees(h, role)
	replaced := -1
	for _, r := range old {
		if named(h, r.slot, r.token) {
			return nil, &SharedSlotError{Slot: r.slot}
		}
		replaced = r.token
	}
	number, err := freeSlot(h)
	if err != nil {
		return nil, err
	}
	generation := max(slots.Generation(), floor) + 1
	p, w, err := k.opening(ctx, c, h, &slots, stay)
	if err != nil {
		return nil, err
	}
	defer w.Wipe()
	defer func() {
		if err != nil {
			p.wipe()
		}
	}()
	p.old, p.prefer = old, slots.Volume == nil
	if role == RoleAgent {
		p.new, err = k.newAgent(ctx, h.UUID, number, generation, formerOf(slots.agent)...)
	} else {
		all := *k
		all.NoRecovery = false // it is asked for by name
		p.new, err = all.newRecovery(h.UUID, number, generation)
	}
	if err != nil {
		return nil, err
	}
	if err := room(h, replaced, p.new.token); err != nil {
		return nil, err
	}
	return p, p.journal(h, w, role, generation, started)
}

// opening is a rotation that has the key of a slot which opens, tested, and nothing else yet; the caller wipes it. W is that of the agent slot, or nil if
// it is the recovery slot; the caller wipes it, too.
func (k *Keyring) opening(ctx context.Context, c Container, h *header.Header, slots *Slots, stay *luks.Auth) (p *rotation, w *secret.Key, err error) {
	p = &rotation{before: h}
	if stay != nil {
		key, err := stay.Key.Clone()
		if err != nil {
			return nil, nil, err
		}
		p.auth = luks.Auth{Slot: stay.Slot, Key: key}
		p.stay = &p.auth
		return p, nil, nil // it was proven
	}
	if len(slots.agent) == 0 {
		return nil, nil, ErrNoAgentSlot
	}
	agent := slots.agent[0]
	w, err = k.KEK.Unwrap(ctx, kek.Binding{VolumeUUID: agent.UUID, Role: RoleAgent}, agent.KEK, agent.Wrap)
	if err != nil {
		return nil, nil, err
	}
	p.auth.Slot = agent.Slot
	p.auth.Key, err = unseal(w, agent.Sealed, agent.UUID, RoleAgent, agent.Generation)
	if err == nil {
		// It also mends a damaged copy of the header, which the second prover does not read.
		if err = c.TestSlot(agent.Slot, p.auth.Key); err != nil {
			err = &ProofError{Slot: agent.Slot, By: provers[0], Err: err}
		}
	}
	if err != nil {
		p.wipe()
		w.Wipe()
		return nil, nil, err
	}
	return p, w, nil
}

// journal makes the pending token and the receipt.
func (p *rotation) journal(h *header.Header, w *secret.Key, role string, generation uint64, started time.Time) error {
	token, err := decode(p.new.token)
	if err != nil {
		return err
	}
	t := p.begin(h, role, started)
	p.receipt.NewGeneration = generation
	for _, r := range p.old {
		p.receipt.OldSlot, p.receipt.OldGeneration, p.receipt.OldRecipients = r.slot, r.generation, r.recipients
	}
	switch token := token.(type) {
	case AgentToken:
		t.Agent, p.receipt.KEK = &token, &token.KEK
	case RecoveryToken:
		t.Recovery, p.receipt.Recipients = &token, token.Recipients
		if t.Sealed, err = seal(w, p.new.key, h.UUID, RoleRecovery, generation); err != nil {
			return err
		}
	}
	p.pending, err = t.Encode()
	return err
}

// begin makes what every journal and receipt have.
func (p *rotation) begin(h *header.Header, role string, started time.Time) PendingToken {
	t := PendingToken{UUID: h.UUID, Operation: rand.Text()}
	for _, number := range slices.Sorted(maps.Keys(h.Keyslots)) {
		t.Salts = append(t.Salts, h.Keyslots[number].KDF.Salt)
	}
	p.receipt = Rotated{
		Operation: t.Operation, UUID: h.UUID, Role: role, OldSlot: -1, NewSlot: p.new.slot, ProvedBy: provers, Started: started, Rescued: p.stay != nil,
	}
	return t
}

// run does the writes.
func (p *rotation) run(c Container, k *Keyring) error {
	w, err := write(c, k)
	if err != nil {
		return err
	}
	defer w.close()
	id, err := w.SetToken(-1, p.pending)
	if err != nil {
		return err
	}
	if err := w.sync(); err != nil {
		return err
	}
	w.hit("rotate.pending")
	if err := w.AddSlot(p.auth, p.new.slot, p.new.key, luks.KDFRandomKey); err != nil {
		return err
	}
	w.hit("rotate.added")
	if err := w.settle(p.new.slot, p.new.key); err != nil {
		return err
	}
	w.hit("rotate.proven")
	if p.prefer {
		if err := prefer(c, p.new.slot); err != nil {
			return err
		}
	}
	if err := w.publish(id, p.new.token); err != nil {
		return err
	}
	for _, old := range p.old {
		if err := w.retire(old); err != nil {
			return err
		}
	}
	return p.compare(c)
}

// compare checks at the end that the slots of everybody else are as they were. F31 F35
func (p *rotation) compare(c Container) error {
	h, err := c.Header()
	if err != nil {
		return err
	}
	for number, was := range p.before.Keyslots {
		if slices.ContainsFunc(p.old, func(r retiree) bool { return r.slot == number }) {
			continue
		}
		if is, ok := h.Keyslots[number]; !ok || !slices.Equal(is.KDF.Salt, was.KDF.Salt) {
			return fmt.Errorf("key slot %d, which this rotation does not concern, has changed meanwhile", number)
		}
	}
	return nil
}

// clearUp puts the header in order after a rotation that failed with cause. After a failed sync nobody
// knows what is on the disk, and a second one would not tell: that is for another process, which reads
// it anew.
func (p *rotation) clearUp(ctx context.Context, c Container, k *Keyring, cause error) (*Rotated, error) {
	var failed *syncError
	if errors.As(cause, &failed) {
		return nil, cause
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), clearUpTime)
	defer cancel()
	found, err := recoverWith(ctx, c, k, p.new.key, p.stay)
	if err != nil {
		return nil, fmt.Errorf("%w; put the header in order: %w", cause, err)
	}
	if found.Finished == nil || found.Finished.NewGeneration != p.receipt.NewGeneration {
		return nil, cause
	}
	// What failed went well the second time.
	found.Finished.Started, found.Finished.Resumed = p.receipt.Started, false
	return found.Finished, nil
}

// clearUpTime is for a key provider to answer, on top of the caller's deadline.
const clearUpTime = 20 * time.Second

// retirees are the slots of a role with their tokens, the newest first.
func (s *Slots) retirees(h *header.Header, role string) []retiree {
	var all []retiree
	add := func(kind string, slot int, generation uint64, recipients []string) {
		all = append(all, retiree{slot, h.Keyslots[slot].KDF.Salt, s.tokens[tokenKey(kind, slot)], generation, recipients})
	}
	if role == RoleAgent {
		for _, t := range s.agent {
			add(TypeAgent, t.Slot, t.Generation, nil)
		}
		return all
	}
	for _, t := range s.recovery {
		add(TypeRecovery, t.Slot, t.Generation, t.Recipients)
	}
	return all
}

// publish puts a token in the place of the pending one.
func (w *writer) publish(id int, token []byte) error {
	if err := w.token(id, token); err != nil {
		return err
	}
	if err := readBack(w, token); err != nil {
		return err
	}
	w.hit("rotate.published")
	return nil
}

// retire destroys a slot whose successor is proven, and removes its token.
func (w *writer) retire(old retiree) error {
	if err := w.kill(old.slot, old.salt, old.token); err != nil {
		return err
	}
	w.hit("rotate.destroyed")
	return w.remove(old.token)
}

func (w *writer) remove(token int) error {
	if err := w.RemoveToken(token); err != nil {
		return err
	}
	if err := w.sync(); err != nil {
		return err
	}
	h, err := w.Header()
	if err != nil {
		return err
	}
	if _, ok := h.Tokens[token]; ok {
		return fmt.Errorf("token %d was removed, and is still on the disk", token)
	}
	w.hit("rotate.removed")
	return nil
}

// kill destroys a slot durably, if it is still the one with that salt, no token but the given one names
// it, and other slots are left. It is gone then from what the disk has: one that loses writes without a
// word must not end in a receipt that says more than is true.
func (w *writer) kill(slot int, salt []byte, token int) error {
	h, err := w.Header()
	if err != nil {
		return err
	}
	is, ok := h.Keyslots[slot]
	switch {
	case !ok || !slices.Equal(is.KDF.Salt, salt):
		return fmt.Errorf("key slot %d has changed meanwhile", slot)
	case named(h, slot, token):
		return &SharedSlotError{Slot: slot}
	case len(h.Keyslots) < 2:
		return luks.ErrLastSlot
	}
	if err := w.KillSlot(slot); err != nil {
		return err
	}
	if err := w.sync(); err != nil {
		return err
	}
	if h, err = w.Header(); err != nil {
		return err
	}
	if _, ok := h.Keyslots[slot]; ok {
		return fmt.Errorf("key slot %d was destroyed, and is still on the disk", slot)
	}
	return nil
}
