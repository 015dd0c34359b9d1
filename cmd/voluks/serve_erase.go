// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/volume"
)

const (
	// eraseEvery is how often the agent looks for removed volumes whose time is over, and eraseTime what the erasure of each gets.
	eraseEvery = 10 * time.Second
	eraseTime  = 5 * time.Minute
	// doubtTime is how long the time of a removed volume must have been over, by a clock that nobody sets, before it is erased: a wrong clock is corrected by
	// then, and a configuration that was written by halves too.
	doubtTime = time.Hour
)

// eraser erases removed volumes when their time is over. What it depends on is in fields, for tests.
type eraser struct {
	keep    func() (time.Duration, error) // of the configuration, each time anew
	expired func(context.Context, time.Duration) ([]volume.Removed, error)
	erase   func(ctx context.Context, seen volume.Removed) (volume.EraseReceipt, error)
	log     *slog.Logger

	since map[string]time.Duration // by UUID: how long the agent had run when the time was first seen to be over
	told  map[string]string        // by UUID: what was last told of it
}

// run looks every so often until ctx ends.
func (r *eraser) run(ctx context.Context) {
	ticker := time.NewTicker(eraseEvery)
	defer ticker.Stop()
	started := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			r.once(ctx, time.Since(started)) // by the monotonic clock
		}
	}
}

// once erases what is due, one after the other: nothing about it is urgent. A configuration that cannot be read erases nothing. The agent has run for up.
func (r *eraser) once(ctx context.Context, up time.Duration) {
	keep, err := r.keep()
	if err != nil {
		r.since = nil
		return
	}
	due, err := r.expired(ctx, keep)
	if err != nil {
		r.log.Warn("the removed volumes cannot be listed", "error", err)
		return
	}
	since := map[string]time.Duration{}
	for _, d := range due {
		first, known := r.since[d.UUID]
		if !known {
			first = up
		}
		since[d.UUID] = first
		if keep > 0 && !d.Erasing && up-first < doubtTime || ctx.Err() != nil {
			continue
		}
		r.one(ctx, d)
	}
	r.since = since
}

func (r *eraser) one(ctx context.Context, d volume.Removed) {
	ctx, cancel := context.WithTimeout(ctx, eraseTime)
	defer cancel()
	receipt, err := r.erase(ctx, d)
	switch {
	case errors.Is(err, volume.ErrNotFound):
	case err != nil:
		r.tell(d.UUID, "a removed volume could not be erased; it is tried again: "+err.Error())
	case len(receipt.Incomplete) > 0:
		r.tell(d.UUID, "a removed volume is not erased completely; it is tried again: "+strings.Join(receipt.Incomplete, "; "))
	default:
		r.log.Info("a removed volume was erased", "volume", receipt.Volume, "uuid", d.UUID, "header", receipt.Header.How)
	}
}

// tell says what is new of a volume, and not every ten seconds the same.
func (r *eraser) tell(id, text string) {
	if r.told[id] == text {
		return
	}
	if r.told == nil {
		r.told = map[string]string{}
	}
	r.told[id] = text
	r.log.Warn(text, "uuid", id)
}

// eraser is that of the agent.
func (a *agent) eraser(e *env) *eraser {
	return &eraser{
		keep:    func() (time.Duration, error) { cfg, err := e.loadConfig(); return cfg.Remove.Keep, err },
		expired: a.volumes.Expired, erase: a.volumes.Erase, log: a.log,
	}
}
