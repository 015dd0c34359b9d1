// SPDX-License-Identifier: Apache-2.0

package kek

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// firstWait and maxWait bound the waits between two tries. A key server that restarts is back within seconds, and one that is down for hours
	// should not be asked more often than this by every node and volume there is.
	firstWait = 250 * time.Millisecond
	maxWait   = 30 * time.Second
)

// MayPass says whether it makes sense to try again what has failed like this. What was denied, disabled or misconfigured does not pass by itself.
func MayPass(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}

// Backoff says how long to wait before the next try of something: twice as long each time, up to half a minute. The zero value is ready.
type Backoff struct{ tries int }

// Next returns the next wait. A part of it, up to half, is left to chance, so that what has failed at one time, as after a power cut of a whole
// room, is not tried again at one time.
func (b *Backoff) Next() time.Duration {
	wait := maxWait
	if b.tries < 10 {
		wait = min(maxWait, firstWait<<b.tries)
	}
	b.tries++
	return wait/2 + rand.N(wait/2+1)
}

// persist makes a call to a provider, and again while its error may pass, until the patience of the set or ctx ends. Each call has a deadline of its
// own.
func (s *Set) persist(ctx context.Context, p Provider, call func(context.Context) error) error {
	started := time.Now()
	var backoff Backoff
	for tries := 1; ; tries++ {
		err := limited(ctx, s.timeout(p), call)
		if err == nil || !MayPass(err) || errors.Is(err, ErrNotMine) {
			return err
		}
		left := s.Patience - time.Since(started)
		wait := min(backoff.Next(), left) // the last try is when patience ends
		end, ends := ctx.Deadline()
		// The reason of this try says more than the end of the context would.
		if left <= 0 || ctx.Err() != nil || ends && wait >= time.Until(end) {
			if tries > 1 {
				err = fmt.Errorf("%w (tried %d times in %v)", err, tries, time.Since(started).Round(time.Second))
			}
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// timeout is how long a provider may take for one call.
func (s *Set) timeout(p Provider) time.Duration {
	if t := s.Timeouts[p]; t > 0 {
		return t
	}
	return DefaultTimeout
}

func limited(ctx context.Context, timeout time.Duration, call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := call(ctx)
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && err != nil && !errors.Is(err, ErrUnavailable) {
		return fmt.Errorf("%w: %w", ErrUnavailable, err) // the end of the time for one call is something that may pass
	}
	return err
}
