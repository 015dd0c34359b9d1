// SPDX-License-Identifier: Apache-2.0

package kek

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Forgetter is a Provider that keeps something for each volume, and can destroy it. The volume's wraps do not open any more then.
type Forgetter interface {
	Provider
	// Forget destroys what is kept for the volume, durably. Nothing there is no error.
	Forget(ctx context.Context, volumeUUID string) error
}

// probed is no volume's binding: LUKS never makes this UUID.
var probed = Binding{VolumeUUID: "00000000-0000-0000-0000-000000000000", Role: "probe"}

// Probe is how a provider does now.
type Probe struct {
	Ref    Ref           // the key, with the version that wraps now if the keeper told it
	Wrap   time.Duration // how long it took to make and wrap a key
	Unwrap time.Duration // how long it took to get it back
	Err    error         // why it cannot be used, or nil
}

// Test makes a key with one of the providers of the set, wraps it, and unwraps it again, for no volume. Each call has its usual deadline, and is made
// once.
func (s *Set) Test(ctx context.Context, p Provider) (result Probe) {
	result.Ref = p.Ref()
	started := time.Now()
	set := s.Only(p)
	set.Patience = 0
	w, wrap, ref, err := set.Generate(ctx, probed)
	result.Wrap = time.Since(started)
	if f, ok := p.(Forgetter); ok {
		// Without the caller's deadline: what was made for no volume must not stay.
		defer func() {
			if err := f.Forget(context.WithoutCancel(ctx), probed.VolumeUUID); err != nil && result.Err == nil {
				result.Err = fmt.Errorf("remove what was made for the test: %w", err)
			}
		}()
	}
	if err != nil {
		result.Err = err
		return result
	}
	defer w.Wipe()
	result.Ref = ref
	started = time.Now()
	got, err := set.Unwrap(ctx, probed, ref, wrap)
	result.Unwrap = time.Since(started)
	defer got.Wipe()
	if err == nil && !got.Equal(w) {
		err = errors.New("it returns another key than it has wrapped")
	}
	result.Err = err
	return result
}
