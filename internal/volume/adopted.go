// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"fmt"

	"github.com/voluks/voluks/keyslot"
)

// Adopted is a LUKS2 device of the host that is no volume, but has an agent slot of this node (see keyslot.Adopt).
type Adopted struct {
	Name string `json:"name"` // that it goes by
	UUID string `json:"uuid"` // of its LUKS header
	Path string `json:"path"` // where it is now
}

// AdoptedRequest is what is to be done with the agent slot of an adopted device.
type AdoptedRequest struct {
	Adopted
	Action string `json:"action"`           // ActionRotate, ActionRewrap or ActionRevoke
	KeyID  string `json:"key_id,omitempty"` // of ActionRevoke
}

// ChangeAdopted does for an adopted device what Rotate, Rewrap and Revoke do for a volume: by the same steps, proven, with a receipt, a new backup of the
// header and the end of older ones. Its other slots, and whether it is open, do not matter. There is no record that a crash could leave behind; what happens
// inside the header stands in package keyslot. Errors are those of Rotate; ErrInvalid if another container is there.
func (m *Manager) ChangeAdopted(ctx context.Context, r AdoptedRequest) (receipt KeyReceipt, err error) {
	defer finishError(&err, r.Action, r.Name)
	// A volume cannot have a name like that.
	l, err := m.lock(ctx, m.o.Paths.Lock(".adopted-"+r.UUID), r.Action)
	if err != nil {
		return receipt, err
	}
	defer l.Release()
	c := m.s.Containers.Foreign(r.Path)
	h, err := c.Header()
	if err != nil {
		return receipt, fmt.Errorf("read its LUKS header: %w", err)
	}
	if h.UUID != r.UUID {
		return receipt, &Error{Code: CodeInvalid, Err: fmt.Errorf("the container on %s is %s, not %s", r.Path, h.UUID, r.UUID)}
	}
	k, err := m.keyring(ctx)
	if err != nil {
		return receipt, err
	}
	receipt = KeyReceipt{V: 1, Action: r.Action, Volume: r.Name, UUID: r.UUID}
	switch r.Action {
	case ActionRotate:
		err = rotateRoles(ctx, c, k, &receipt, []string{keyslot.RoleAgent})
	case ActionRewrap:
		err = rewrapKeys(ctx, c, k, &receipt)
	case ActionRevoke:
		err = revokeKey(ctx, c, k, &receipt, r.KeyID)
	default:
		err = &Error{Code: CodeInvalid, Err: fmt.Errorf("%q is nothing that can be done with an adopted device", r.Action)}
	}
	m.o.Crash(r.Action + ".header")
	if err != nil && !receipt.Changed() {
		return receipt, err
	}
	m.conclude(k, r.Path, &receipt)
	return receipt, err
}
