// SPDX-License-Identifier: Apache-2.0

// Package worker runs operations on volumes in processes of their own: one operation, then exit. A worker can hang in the kernel past SIGKILL,
// and holds keys that only its end wipes for good; the agent must survive the one and never see the other.
package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/volume"
)

const (
	// defaultTime is for callers without a deadline. Docker gives up after 120 s.
	defaultTime = 110 * time.Second
	// settleTime is what Reconcile gives each volume.
	settleTime = 60 * time.Second
	// takeBackTime is for taking back what a worker did that died before it could answer.
	takeBackTime = 20 * time.Second
	// settlers is how many volumes are settled at the same time.
	settlers = 2
)

// Options are what a Client needs. Manager is required.
type Options struct {
	Manager *volume.Manager // answers List, Inspect, Path and Unsettled in this process
	Command []string        // starts a worker; nil: this program itself with the argument "worker"
	Spares  int             // workers started ahead of need
	Grace   time.Duration   // between SIGTERM and SIGKILL, for the worker to undo what it did; 0: 10 s
	Log     *slog.Logger    // gets the workers' standard error, line by line; nil: discarded
	// Identity is the text of a recovery identity that each worker gets with its request, or nil. It is borrowed as long as the Client is used, and goes
	// with Spares 0 alone.
	Identity *secret.Key
}

// Client has the methods of volume.Manager and does what changes volumes in workers. It is what the agent uses. Its methods may be called
// concurrently; errors are those of the Manager, with the same codes, and ErrStuck for a worker that outlives its deadline and does not die.
// The deadline is that of the context, else 110 s; a worker that is told to stop gets Options.Grace on top.
type Client struct {
	o Options

	places *places

	mu       sync.Mutex
	spares   []*process
	starting int // spares
	closed   bool
	wg       sync.WaitGroup // spares being started
	alive    atomic.Int64   // processes that have not ended, abandoned ones included
}

// NewClient makes a Client and starts its spares.
func NewClient(o Options) *Client {
	if o.Command == nil {
		o.Command = []string{"/proc/self/exe", "worker"}
	}
	if o.Grace == 0 {
		o.Grace = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Client{o: o, places: newPlaces(atOnce, atMost, slowAfter)}
	c.refill()
	return c
}

// Create is volume.Manager.Create in a worker.
func (c *Client) Create(ctx context.Context, s volume.Spec) (volume.Info, bool, error) {
	a, err := c.call(ctx, request{Op: opCreate, Name: s.Name, Spec: &s})
	if err != nil || a.Info == nil {
		return volume.Info{}, false, err
	}
	return *a.Info, a.Made, nil
}

// Mount is volume.Manager.Mount in a worker. If the worker dies without an answer the holder is taken back, unless it was one before: the caller
// of a failed Mount sends no Unmount.
func (c *Client) Mount(ctx context.Context, name string, h volume.Holder) (string, error) {
	had := c.o.Manager.Holds(name, h.ID)
	a, err := c.call(ctx, request{Op: opMount, Name: name, Holder: &h})
	if errors.Is(err, errDied) && !had {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackTime)
		defer cancel()
		if _, err2 := c.call(ctx, request{Op: opUnmount, Name: name, HolderID: h.ID}); err2 != nil {
			err = fmt.Errorf("%w; taking it back: %w", err, err2)
		}
	}
	return a.Path, err
}

// Unmount is volume.Manager.Unmount in a worker.
func (c *Client) Unmount(ctx context.Context, name, holderID string) error {
	_, err := c.call(ctx, request{Op: opUnmount, Name: name, HolderID: holderID})
	return err
}

// Remove is volume.Manager.Remove in a worker.
func (c *Client) Remove(ctx context.Context, name string) error {
	_, err := c.call(ctx, request{Op: opRemove, Name: name})
	return err
}

// Erase is volume.Manager.Erase in a worker.
func (c *Client) Erase(ctx context.Context, seen volume.Removed) (volume.EraseReceipt, error) {
	a, err := c.call(ctx, request{Op: opErase, Name: seen.UUID, Removed: &seen})
	if a.Erased == nil {
		return volume.EraseReceipt{}, err
	}
	return *a.Erased, err
}

// Expired is volume.Manager.Expired.
func (c *Client) Expired(ctx context.Context, keep time.Duration) ([]volume.Removed, error) {
	return c.o.Manager.Expired(ctx, keep)
}

// Settle is volume.Manager.Settle in a worker.
func (c *Client) Settle(ctx context.Context, name string) error {
	_, err := c.call(ctx, request{Op: opSettle, Name: name})
	return err
}

// Unlockable is volume.Manager.Unlockable in a worker.
func (c *Client) Unlockable(ctx context.Context, name string) error {
	_, err := c.call(ctx, request{Op: opKey, Name: name})
	return err
}

// NoteKey is volume.Manager.NoteKey.
func (c *Client) NoteKey(name string, answer error, next time.Time) error {
	return c.o.Manager.NoteKey(name, answer, next)
}

// Reconcile settles every volume that needs it, each in a worker of its own, so that one that hangs keeps nobody. The error joins what went wrong.
func (c *Client) Reconcile(ctx context.Context) error {
	names, err := c.o.Manager.Unsettled(ctx)
	if err != nil {
		return err
	}
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
		next = make(chan string)
	)
	for range min(settlers, len(names)) {
		wg.Go(func() {
			for name := range next {
				ctx, cancel := context.WithTimeout(ctx, settleTime)
				if err := c.Settle(ctx, name); err != nil {
					mu.Lock()
					errs = append(errs, err)
					mu.Unlock()
				}
				cancel()
			}
		})
	}
	for _, name := range names {
		next <- name
	}
	close(next)
	wg.Wait()
	return errors.Join(errs...)
}

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

// Unsettled is volume.Manager.Unsettled.
func (c *Client) Unsettled(ctx context.Context) ([]string, error) {
	return c.o.Manager.Unsettled(ctx)
}

// Close ends the spares and returns when they are gone. Operations that run are not disturbed.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	spares := c.spares
	c.spares = nil
	c.mu.Unlock()
	c.wg.Wait()
	for _, p := range spares {
		p.dismiss()
	}
	return nil
}

// take gives a worker that waits for a request: a spare, or a new one.
func (c *Client) take() (*process, error) {
	c.mu.Lock()
	for len(c.spares) > 0 {
		p := c.spares[0]
		c.spares = c.spares[1:]
		if p.alive() {
			c.mu.Unlock()
			return p, nil
		}
		p.dismiss()
	}
	c.mu.Unlock()
	return c.start()
}

func (c *Client) start() (*process, error) {
	c.alive.Add(1)
	p, err := start(c.o, func() { c.alive.Add(-1) })
	if err != nil {
		c.alive.Add(-1)
	}
	return p, err
}

// refill starts spares in the background until there are enough. It is called after an operation, so as not to compete with it.
func (c *Client) refill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !c.closed && len(c.spares)+c.starting < c.o.Spares {
		c.starting++
		c.wg.Go(c.startSpare)
	}
}

func (c *Client) startSpare() {
	p, err := c.start()
	if err != nil {
		c.o.Log.Error("no spare worker", "err", err)
	}
	c.mu.Lock()
	c.starting--
	keep := err == nil && !c.closed
	if keep {
		c.spares = append(c.spares, p)
	}
	c.mu.Unlock()
	if err == nil && !keep {
		p.dismiss()
	}
}

// call does one request in one worker.
func (c *Client) call(ctx context.Context, r request) (answer, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultTime)
		defer cancel()
		deadline, _ = ctx.Deadline()
	}
	r.Deadline, r.Identity = deadline, c.o.Identity != nil
	fail := func(code volume.Code, err error) (answer, error) {
		return answer{}, &volume.Error{Code: code, Op: r.Op, Volume: r.Name, Err: err}
	}
	if err := ctx.Err(); err != nil {
		return fail(codeOfContext(err), err)
	}
	release, err := c.places.take(ctx)
	if err != nil {
		return fail(codeOfContext(err), fmt.Errorf("wait until others are done: %w", err))
	}
	p, err := c.take()
	if err != nil {
		release()
		return fail(volume.CodeInternal, err)
	}
	defer c.refill()
	a, err := p.do(ctx, r, c.o.Grace)
	if err != nil {
		release() // it is gone, or nobody can say when it will be
	}
	switch {
	case errors.Is(err, errAbandoned):
		return fail(volume.CodeStuck, err)
	case err != nil && ctx.Err() != nil: // ended by its deadline, before or while it could undo
		return fail(codeOfContext(ctx.Err()), err)
	case err != nil:
		return fail(volume.CodeInternal, err)
	}
	go func() {
		p.dismiss()
		release()
	}()
	return a, a.Error.decode()
}

func codeOfContext(err error) volume.Code {
	if errors.Is(err, context.DeadlineExceeded) {
		return volume.CodeTimeout
	}
	return volume.CodeCanceled
}
