// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/voluks/voluks/internal/volume"
)

const (
	// eraseEvery is how often the agent looks for removed volumes whose time is over, and eraseTime what the erasure of each gets.
	eraseEvery = 10 * time.Second
	eraseTime  = 5 * time.Minute
	// clockTime is how long the agent must have run before it believes that a time is over: a machine that boots with a wrong clock, far ahead, has had it
	// set by then.
	clockTime = 10 * time.Minute
)

// eraser erases removed volumes when their time is over. What it depends on is in fields, for tests.
type eraser struct {
	keep    func() (time.Duration, error) // of the configuration, each time anew
	expired func(context.Context, time.Duration) ([]string, error)
	erase   func(ctx context.Context, id string) (volume.EraseReceipt, error)
	log     *slog.Logger
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
			r.once(ctx, time.Since(started))
		}
	}
}

// once erases what is due, one after the other: nothing about it is urgent. A configuration that cannot be read erases nothing. The agent has run for up.
func (r *eraser) once(ctx context.Context, up time.Duration) {
	keep, err := r.keep()
	if err != nil || keep > 0 && up < clockTime {
		return
	}
	ids, err := r.expired(ctx, keep)
	if err != nil {
		r.log.Warn("the removed volumes cannot be listed", "error", err)
		return
	}
	for _, id := range ids {
		if ctx.Err() != nil {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, eraseTime)
		receipt, err := r.erase(ctx, id)
		cancel()
		if err != nil && !errors.Is(err, volume.ErrNotFound) {
			r.log.Warn("a removed volume could not be erased; it is tried again", "uuid", id, "error", err)
			continue
		}
		for _, left := range receipt.Incomplete {
			r.log.Warn("a removed volume is not erased completely; it is tried again: "+left, "volume", receipt.Volume, "uuid", id)
		}
		if err == nil && len(receipt.Incomplete) == 0 {
			r.log.Info("a removed volume was erased", "volume", receipt.Volume, "uuid", id, "header", receipt.Header.How)
		}
	}
}

// eraser is that of the agent.
func (a *agent) eraser(e *env) *eraser {
	return &eraser{
		keep:    func() (time.Duration, error) { cfg, err := e.loadConfig(); return cfg.Remove.Keep, err },
		expired: a.volumes.Expired, erase: a.volumes.Erase, log: a.log,
	}
}
