// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/voluks/voluks/internal/recovery/typable"
	"github.com/voluks/voluks/luks/header"
)

// PendingToken is the journal of a rotation: what is to be, before anything of it is. It names no key
// slot, since a token may not name an empty one. One write replaces it by the token inside it, which
// is what publishes the new slot. A voluks that does not know it opens the volume by the old slot.
type PendingToken struct {
	UUID      string // of the header
	Operation string // names this run in receipts and logs
	// Salts are those of all slots that were there before. A slot with one of them is somebody's.
	Salts [][]byte
	// Agent, Recovery or Typed is the token to publish, complete; the others are nil. Its slot is the target.
	Agent    *AgentToken
	Recovery *RecoveryToken // set for the recovery role
	Typed    *TypedToken    // set for a recovery key that is typed
	// Sealed is the key of a recovery slot, sealed under the W of the agent slot, or a node could not
	// prove that slot after a crash. It goes with this token.
	Sealed []byte
}

type pendingJSON struct {
	commonJSON
	Operation string          `json:"operation"`
	Salts     [][]byte        `json:"salts"`
	Token     json.RawMessage `json:"token"`
	Sealed    []byte          `json:"sealed,omitempty"`
}

// Role is that of the slot that is being made.
func (t PendingToken) Role() string {
	switch {
	case t.Recovery != nil:
		return RoleRecovery
	case t.Typed != nil:
		return RoleTyped
	}
	return RoleAgent
}

// Slot is the one that is being made; it may not be there yet.
func (t PendingToken) Slot() int {
	switch {
	case t.Recovery != nil:
		return t.Recovery.Slot
	case t.Typed != nil:
		return t.Typed.Slot
	}
	return t.Agent.Slot
}

// Generation is that of the new slot; 0 for a key that is typed.
func (t PendingToken) Generation() uint64 {
	switch {
	case t.Recovery != nil:
		return t.Recovery.Generation
	case t.Typed != nil:
		return 0
	}
	return t.Agent.Generation
}

// Encode returns the token as it stands in the header. It refuses what Decode would refuse.
func (t PendingToken) Encode() ([]byte, error) {
	if err := t.validate(); err != nil {
		return nil, fmt.Errorf("encode a token: %w", err)
	}
	inner, err := t.publish()
	return encode(pendingJSON{common(TypePending, t.UUID), t.Operation, t.Salts, inner, t.Sealed}, err)
}

// publish is the token that takes its place.
func (t PendingToken) publish() ([]byte, error) {
	switch {
	case t.Recovery != nil:
		return t.Recovery.Encode()
	case t.Typed != nil:
		return typable.Token(t.Typed.Slot), nil
	}
	return t.Agent.Encode()
}

func (j pendingJSON) token() (PendingToken, error) {
	t := PendingToken{UUID: j.UUID, Operation: j.Operation, Salts: j.Salts, Sealed: j.Sealed}
	if len(j.Keyslots) != 0 {
		return t, errors.New("names key slots")
	}
	if slot, ok := typedSlot(j.Token); ok {
		t.Typed = &TypedToken{Slot: slot}
		return t, nil
	}
	inner, err := decode(j.Token)
	if err != nil {
		return t, err
	}
	switch inner := inner.(type) {
	case AgentToken:
		t.Agent = &inner
	case RecoveryToken:
		t.Recovery = &inner
	default:
		return t, errors.New("is to become a token of another kind")
	}
	return t, nil
}

const (
	maxOperation = 64
	maxSalt      = 256 // bytes
)

func (t PendingToken) validate() error {
	if err := validateUUID(t.UUID); err != nil {
		return err
	}
	kinds := 0
	uuid := t.UUID // systemd's token has none
	if t.Agent != nil {
		kinds, uuid = kinds+1, t.Agent.UUID
	}
	if t.Recovery != nil {
		kinds, uuid = kinds+1, t.Recovery.UUID
	}
	if t.Typed != nil {
		kinds++
	}
	if kinds != 1 {
		return errors.New("is to become no token, or several")
	}
	switch {
	case uuid != t.UUID:
		return errors.New("is to become the token of another header")
	case t.Operation == "" || len(t.Operation) > maxOperation || !plain(t.Operation):
		return errors.New("operation has no usable name")
	case len(t.Salts) == 0 || len(t.Salts) > header.MaxKeyslots:
		return fmt.Errorf("%d salts", len(t.Salts))
	case slices.ContainsFunc(t.Salts, func(s []byte) bool { return len(s) == 0 || len(s) > maxSalt }):
		return errors.New("a salt is empty or too long")
	case t.Recovery == nil && len(t.Sealed) != 0, t.Recovery != nil && len(t.Sealed) != sealedSize:
		return fmt.Errorf("sealed key of %d bytes", len(t.Sealed))
	}
	return nil
}
