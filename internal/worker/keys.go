// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"

	"github.com/voluks/voluks/internal/volume"
)

// Rotate is volume.Manager.Rotate in a worker.
func (c *Client) Rotate(ctx context.Context, name string, roles ...string) (volume.KeyReceipt, error) {
	return c.keys(ctx, request{Op: opRotate, Name: name, Roles: roles})
}

// Rewrap is volume.Manager.Rewrap in a worker.
func (c *Client) Rewrap(ctx context.Context, name string) (volume.KeyReceipt, error) {
	return c.keys(ctx, request{Op: opRewrap, Name: name})
}

// Revoke is volume.Manager.Revoke in a worker.
func (c *Client) Revoke(ctx context.Context, name, keyID string) (volume.KeyReceipt, error) {
	return c.keys(ctx, request{Op: opRevoke, Name: name, KeyID: keyID})
}

// Rekey is volume.Manager.Rekey in a worker.
func (c *Client) Rekey(ctx context.Context, name string) (volume.KeyReceipt, error) {
	return c.keys(ctx, request{Op: opRekey, Name: name})
}

// VerifyRecovery is volume.Manager.VerifyRecovery in a worker.
func (c *Client) VerifyRecovery(ctx context.Context, name string) (volume.KeyReceipt, error) {
	return c.keys(ctx, request{Op: opVerify, Name: name})
}

// ChangeAdopted is volume.Manager.ChangeAdopted in a worker.
func (c *Client) ChangeAdopted(ctx context.Context, r volume.AdoptedRequest) (volume.KeyReceipt, error) {
	return c.keys(ctx, request{Op: r.Action, Name: r.Name, Adopted: &r})
}

func (c *Client) keys(ctx context.Context, r request) (volume.KeyReceipt, error) {
	a, err := c.call(ctx, r)
	if a.Receipt == nil {
		a.Receipt = &volume.KeyReceipt{}
	}
	return *a.Receipt, err
}

// changeKeys does one of these requests in the worker.
func changeKeys(ctx context.Context, m *volume.Manager, r request) (*volume.KeyReceipt, error) {
	var receipt volume.KeyReceipt
	var err error
	switch {
	case r.Adopted != nil:
		receipt, err = m.ChangeAdopted(ctx, *r.Adopted)
	case r.Op == opRotate:
		receipt, err = m.Rotate(ctx, r.Name, r.Roles...)
	case r.Op == opRewrap:
		receipt, err = m.Rewrap(ctx, r.Name)
	case r.Op == opRekey:
		receipt, err = m.Rekey(ctx, r.Name)
	case r.Op == opVerify:
		receipt, err = m.VerifyRecovery(ctx, r.Name)
	default:
		receipt, err = m.Revoke(ctx, r.Name, r.KeyID)
	}
	return &receipt, err
}
