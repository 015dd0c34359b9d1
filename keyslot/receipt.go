// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"encoding/json"

	"github.com/voluks/voluks/luks/header"
)

// receipt is that of a rotation which ends with the newest slot of a role, as far as the header tells.
func (s *Slots) receipt(role string) *Rotated {
	if role == RoleAgent {
		return agentReceipt(s.agent[0])
	}
	return recoveryReceipt(s.recovery[0])
}

func (t *PendingToken) receipt() *Rotated {
	var r *Rotated
	switch {
	case t.Agent != nil:
		r = agentReceipt(*t.Agent)
	case t.Recovery != nil:
		r = recoveryReceipt(*t.Recovery)
	default:
		r = &Rotated{UUID: t.UUID, Role: RoleTyped, OldSlot: -1, NewSlot: t.Typed.Slot, ProvedBy: provers, Resumed: true}
	}
	r.Operation = t.Operation
	return r
}

func agentReceipt(t AgentToken) *Rotated {
	return &Rotated{
		UUID: t.UUID, Role: RoleAgent, OldSlot: -1, NewSlot: t.Slot, NewGeneration: t.Generation, KEK: &t.KEK,
		ProvedBy: provers, Started: t.Created, Resumed: true,
	}
}

func recoveryReceipt(t RecoveryToken) *Rotated {
	return &Rotated{
		UUID: t.UUID, Role: RoleRecovery, OldSlot: -1, NewSlot: t.Slot, NewGeneration: t.Generation, Recipients: t.Recipients,
		ProvedBy: provers, Started: t.Created, Resumed: true,
	}
}

// saidOf is what a token without slot says of its generation and recipients; nothing if it does not.
func saidOf(token header.Token) (uint64, []string) {
	var t struct {
		Generation uint64   `json:"generation"`
		Recipients []string `json:"recipients"`
	}
	_ = json.Unmarshal(token.JSON, &t)
	return t.Generation, t.Recipients
}
