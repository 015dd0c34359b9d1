// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
)

const (
	// rotateEvery is about how often the agent looks for aged keys, and rotateAtOnce how many volumes it rotates then: a few, since nothing is urgent about
	// a key of ninety days, and a key service that is asked for everything at once answers nobody.
	rotateEvery  = 10 * time.Minute
	rotateAtOnce = 4
	// rotateTime is what each gets.
	rotateTime = 2 * time.Minute
)

// rotator rotates aged keys by itself. What it depends on is in fields, for tests.
type rotator struct {
	maxAge func() (time.Duration, error) // of the configuration, each time anew; 0: never
	list   func(context.Context) ([]volume.Info, error)
	rotate func(ctx context.Context, name string, roles ...string) (volume.KeyReceipt, error)
	now    func() time.Time
	tell   func(err error, name string, receipt volume.KeyReceipt)
}

// run looks every so often until ctx ends.
func (r *rotator) run(ctx context.Context) {
	for {
		// Nodes that were set up together shall not all ask one key service at once.
		wait := rotateEvery/2 + rand.N(rotateEvery)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
			r.once(ctx)
		}
	}
}

// once rotates a few of the volumes whose keys are due.
func (r *rotator) once(ctx context.Context) {
	maxAge, err := r.maxAge()
	if err != nil || maxAge == 0 {
		return
	}
	infos, err := r.list(ctx)
	if err != nil {
		return
	}
	left := rotateAtOnce
	rand.Shuffle(len(infos), func(i, k int) { infos[i], infos[k] = infos[k], infos[i] }) // one that fails keeps no other
	for _, info := range infos {
		roles := r.due(info, maxAge)
		if len(roles) == 0 || left == 0 || ctx.Err() != nil {
			continue
		}
		left--
		ctx, cancel := context.WithTimeout(ctx, rotateTime)
		receipt, err := r.rotate(ctx, info.Name, roles...)
		cancel()
		r.tell(err, info.Name, receipt)
	}
}

// due are the roles of a volume whose keys have reached the age. A volume that is not well is left alone.
func (r *rotator) due(info volume.Info, maxAge time.Duration) []string {
	if !info.Finished() || info.State == volume.StateStuck || info.State == volume.StateDamaged {
		return nil
	}
	var roles []string
	for _, role := range []string{keyslot.RoleAgent, keyslot.RoleRecovery} {
		if aged(info, []string{role}, r.now().Add(-maxAge)) {
			roles = append(roles, role)
		}
	}
	return roles
}

// rotator is that of the agent.
func (a *agent) rotator(e *env) *rotator {
	return &rotator{
		maxAge: func() (time.Duration, error) { cfg, err := e.loadConfig(); return cfg.Rotation.MaxAge, err },
		list:   a.volumes.List, rotate: a.volumes.Rotate, now: time.Now,
		tell: func(err error, name string, receipt volume.KeyReceipt) {
			if err != nil {
				a.log.Warn("aged keys could not be rotated", "volume", name, "error", err)
				return
			}
			a.log.Info("aged keys rotated", "volume", name, "what", changes(&receipt))
			for _, w := range receipt.Warnings {
				a.log.Warn(w, "volume", name)
			}
		},
	}
}
