// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/secret"
)

// Rewrapped is what Rewrap did. It holds nothing secret.
type Rewrapped struct {
	UUID string  `json:"uuid"` // of the LUKS header
	Slot int     `json:"slot"` // that kept its key
	From kek.Ref `json:"from"` // the key that wrapped before
	To   kek.Ref `json:"to"`   // the key that wraps now
	// Changed is false if the active key wrapped it already.
	Changed bool `json:"changed"`
	// Left is Recovered.Left of an interrupted rotation that was ended first.
	Left []int `json:"left,omitempty"`
}

// Rewrap moves the agent slot to the key that wraps now. The slot and its key stay as they are: W is
// wrapped anew by a provider that can do so without showing it, else there is a new W under which the
// slot key is sealed again. What is to be written is unwrapped, and opens the slot, before it is.
//
//	write          a crash after it leaves
//	nothing        the token of the old key, which a previous provider unwraps
//	the token      everything
//
// An interrupted rotation is ended first. Errors are those of Recover, of the providers, *ProofError and
// *TooLargeError; nothing of the token was changed then.
func Rewrap(ctx context.Context, c Container, k *Keyring) (*Rewrapped, error) {
	r, err := rewrap(ctx, c, k)
	if err != nil {
		return nil, fmt.Errorf("wrap the key of the agent slot anew: %w", err)
	}
	return r, nil
}

func rewrap(ctx context.Context, c Container, k *Keyring) (*Rewrapped, error) {
	found, err := recoverWith(ctx, c, k, nil, nil)
	if err != nil {
		return nil, err
	}
	h, err := c.Header()
	if err != nil {
		return nil, err
	}
	slots, err := State(h)
	switch {
	case err != nil:
		return nil, err
	case len(slots.agent) == 0:
		return nil, ErrNoAgentSlot
	}
	old := slots.agent[0]
	r := &Rewrapped{UUID: h.UUID, Slot: old.Slot, From: old.KEK, To: old.KEK, Left: found.Left}
	if upToDate(k.KEK.Active, old.KEK) {
		return r, nil
	}
	id := slots.tokens[tokenKey(TypeAgent, old.Slot)]
	token, key, err := k.rewrapped(ctx, old)
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	if token.KEK == old.KEK {
		return r, nil // the provider has nothing newer
	}
	encoded, err := token.Encode()
	if err != nil {
		return nil, err
	}
	if err := room(h, id, encoded); err != nil {
		return nil, err
	}
	if err := Prove(c, token.Slot, key); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w, err := write(c, k)
	if err != nil {
		return nil, err
	}
	defer w.close()
	if err := w.token(id, encoded); err != nil {
		return nil, err
	}
	w.hit("rewrap.written")
	r.To, r.Changed = token.KEK, true
	return r, readBack(c, encoded)
}

// upToDate says that the active provider could do nothing new. One that does not know the version of
// its key is asked.
func upToDate(active kek.Provider, ref kek.Ref) bool {
	now := active.Ref()
	if !now.SameKey(ref) {
		return false
	}
	_, asks := active.(kek.Rewrapper)
	return now.Version == ref.Version || now.Version == "" && !asks
}

// rewrapped makes the new token, and the slot key as that token gives it, which the caller wipes.
func (k *Keyring) rewrapped(ctx context.Context, old AgentToken) (AgentToken, *secret.Key, error) {
	b := kek.Binding{VolumeUUID: old.UUID, Role: RoleAgent}
	token := old
	token.History = slices.Clone(old.History)
	again, err := rewrapW(ctx, k.KEK, b, &token)
	if err != nil {
		return token, nil, err
	}
	if !again {
		if err := k.resealed(ctx, b, old, &token); err != nil {
			return token, nil, err
		}
	}
	ref := kek.Ref{Provider: token.KEK.Provider, ID: token.KEK.ID}
	if !slices.ContainsFunc(token.History, ref.SameKey) {
		token.History = append(token.History, ref)
		token.Former = slices.DeleteFunc(slices.Clone(old.Former), ref.SameKey)
	}
	// With the active provider alone: the others are to go.
	only := *k
	only.KEK = k.KEK.Only(k.KEK.Active)
	key, err := unlock(ctx, &only, token)
	return token, key, err
}

// rewrapW lets the active provider renew its own wrap; false if it does not do that.
func rewrapW(ctx context.Context, set *kek.Set, b kek.Binding, token *AgentToken) (bool, error) {
	wrap, ref, err := set.Rewrap(ctx, b, token.KEK, token.Wrap)
	switch {
	case errors.Is(err, errors.ErrUnsupported), errors.Is(err, kek.ErrNotMine):
		return false, nil
	case err != nil:
		return false, err
	}
	token.Wrap, token.KEK = wrap, ref
	return true, nil
}

// resealed seals the slot key under a new W of the active provider.
func (k *Keyring) resealed(ctx context.Context, b kek.Binding, old AgentToken, token *AgentToken) error {
	key, err := unlock(ctx, k, old)
	if err != nil {
		return err
	}
	defer key.Wipe()
	w, wrap, ref, err := k.KEK.Generate(ctx, b)
	if err != nil {
		return err
	}
	defer w.Wipe()
	token.Wrap, token.KEK = wrap, ref
	token.Sealed, err = seal(w, key, old.UUID, RoleAgent, old.Generation)
	return err
}
