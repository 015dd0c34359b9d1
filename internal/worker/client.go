// SPDX-License-Identifier: Apache-2.0

// Package worker runs operations on volumes in processes of their own: one operation, then exit. A worker can hang in the kernel past SIGKILL,
// and holds keys that only its end wipes for good; the agent must survive the one and never see the other.
package worker

import (
	"context"
	"log/slog"
	"time"

	"github.com/voluks/voluks/internal/volume"
)

// Options are what a Client needs.
type Options struct {
	Manager *volume.Manager // answers List, Inspect, Path and Unsettled in this process
	Command []string        // starts a worker; nil: this program itself with the argument "worker"
	Spares  int             // workers started ahead of need
	Grace   time.Duration   // between SIGTERM and SIGKILL, for the worker to undo what it did; 0: 10 s
	Log     *slog.Logger    // gets the workers' standard error, line by line; nil: discarded
}

// Client has the methods of volume.Manager and does what changes volumes in workers. It is what the agent uses. Its methods may be called
// concurrently; errors are those of the Manager, with the same codes, and ErrStuck for a worker that outlives its deadline and does not die.
// The deadline is that of the context, which every call with a worker must have.
type Client struct {
	o Options
}

// NewClient makes a Client and starts its spares.
func NewClient(o Options) *Client { return &Client{o: o} }

// Create is volume.Manager.Create in a worker.
func (c *Client) Create(ctx context.Context, s volume.Spec) (volume.Info, bool, error) {
	panic("not yet")
}

// Mount is volume.Manager.Mount in a worker.
func (c *Client) Mount(ctx context.Context, name string, h volume.Holder) (string, error) {
	panic("not yet")
}

// Unmount is volume.Manager.Unmount in a worker.
func (c *Client) Unmount(ctx context.Context, name, holderID string) error { panic("not yet") }

// Remove is volume.Manager.Remove in a worker.
func (c *Client) Remove(ctx context.Context, name string) error { panic("not yet") }

// Settle is volume.Manager.Settle in a worker.
func (c *Client) Settle(ctx context.Context, name string) error { panic("not yet") }

// Reconcile settles every volume that needs it, each in a worker.
func (c *Client) Reconcile(ctx context.Context) error { panic("not yet") }

// List is volume.Manager.List.
func (c *Client) List(ctx context.Context) ([]volume.Info, error) { return c.o.Manager.List(ctx) }

// Inspect is volume.Manager.Inspect.
func (c *Client) Inspect(ctx context.Context, name string) (volume.Info, error) {
	return c.o.Manager.Inspect(ctx, name)
}

// Path is volume.Manager.Path.
func (c *Client) Path(ctx context.Context, name string) (string, error) {
	return c.o.Manager.Path(ctx, name)
}

// Close ends the spares. Operations that run are not disturbed.
func (c *Client) Close() error { return nil }

// Main is the worker: it reads one request from descriptor 3, does it with the Manager that open makes, writes one answer to descriptor 4 and
// returns. It returns nil without having done anything if the agent goes away before it sends a request. SIGTERM is expected to cancel ctx.
func Main(ctx context.Context, open func(context.Context) (*volume.Manager, error)) error {
	panic("not yet")
}
