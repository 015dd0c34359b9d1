// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
)

// Only what is due is rotated, by role, a few at a time; one that fails keeps no other; nothing is done without max_age.
func TestRotator(t *testing.T) {
	now := time.Now()
	slots := func(agent, recovery time.Duration) []volume.SlotInfo {
		return []volume.SlotInfo{
			{Role: keyslot.RoleAgent, Number: 31, Created: now.Add(-agent)}, {Role: keyslot.RoleRecovery, Number: 30, Created: now.Add(-recovery)},
			{Role: "clevis", Number: 1},
		}
	}
	const day = 24 * time.Hour
	infos := []volume.Info{
		{Name: "old", State: volume.StateMounted, Slots: slots(100*day, 100*day)},
		{Name: "agent", State: volume.StateReady, Slots: slots(91*day, day)},
		{Name: "young", State: volume.StateMounted, Slots: slots(89*day, day)},
		{Name: "unfinished", State: volume.StateFormatted, Slots: slots(100*day, day)},
		{Name: "stuck", State: volume.StateStuck, Slots: slots(100*day, day)},
		{Name: "damaged", State: volume.StateDamaged, Slots: slots(100*day, day)},
	}
	maxAge := 90 * day
	var done []string
	failed := 0
	r := &rotator{
		maxAge: func() (time.Duration, error) { return maxAge, nil },
		list:   func(context.Context) ([]volume.Info, error) { return slices.Clone(infos), nil },
		rotate: func(_ context.Context, name string, roles ...string) (volume.KeyReceipt, error) {
			done = append(done, name+" "+strings.Join(roles, "+"))
			return volume.KeyReceipt{}, errors.New("no")
		},
		now:  func() time.Time { return now },
		tell: func(err error, _ string, _ volume.KeyReceipt) { failed++ },
	}
	r.once(t.Context())
	slices.Sort(done)
	if want := []string{"agent agent", "old agent+recovery"}; !slices.Equal(done, want) || failed != 2 {
		t.Errorf("rotated %q, %d failures", done, failed)
	}
	done, maxAge = nil, 0
	if r.once(t.Context()); done != nil {
		t.Errorf("without max_age: %q", done)
	}
	maxAge, infos = 90*day, nil
	for i := range 20 {
		infos = append(infos, volume.Info{Name: fmt.Sprint(i), State: volume.StateReady, Slots: slots(100*day, day)})
	}
	if r.once(t.Context()); len(done) != rotateAtOnce {
		t.Errorf("%d at once", len(done))
	}
}
