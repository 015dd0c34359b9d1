// SPDX-License-Identifier: Apache-2.0

package luks

import "testing"

// A program that tries any slot tries the preferred one first, and the header stays one of ours.
func TestPreferSlot(t *testing.T) {
	key := randomKey(t)
	c := formatted(t, key)
	must(t, c.PreferSlot(agent))
	h := mustHeader(t, c)
	if p := h.Keyslots[agent].Priority; p == nil || *p != 2 {
		t.Errorf("priority %v", p)
	}
	must(t, c.TestSlot(agent, key))
	must(t, c.Witness(agent, key))
	wantError(t, c.PreferSlot(3), ErrNoSlot)
}
