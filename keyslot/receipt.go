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
	if t.Agent != nil {
		r = agentReceipt(*t.Agent)
	} else {
		r = recoveryReceipt(*t.Recovery)
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

// generationOf is what a token without slot says; 0 if it does not.
func generationOf(token header.Token) uint64 {
	var t struct {
		Generation uint64 `json:"generation"`
	}
	_ = json.Unmarshal(token.JSON, &t)
	return t.Generation
}
