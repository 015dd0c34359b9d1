// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"errors"
	"fmt"
	"sync"
	"testing"
)

// Any number of goroutines may work on different containers, and look at one. Errors and results belong to the call that they are of. F52
func TestConcurrency(t *testing.T) {
	shared := randomKey(t)
	common := formatted(t, shared)
	var group sync.WaitGroup
	for worker := range 6 {
		key, other, c := randomKey(t), randomKey(t), At(image(t))
		group.Go(func() {
			if err := c.Format(params(key)); err != nil {
				t.Error(err)
				return
			}
			for round := range 4 {
				slot := worker*4 + round
				for what, err := range map[string]error{
					"add":     c.AddSlot(Auth{agent, key}, slot, other, KDFRandomKey),
					"test":    c.TestSlot(slot, other),
					"token":   setToken(c, round, fmt.Sprintf(`{"type":"t","keyslots":["%d"],"n":%d}`, slot, worker)),
					"common":  common.TestSlot(agent, shared),
					"witness": common.Witness(agent, shared),
				} {
					if err != nil {
						t.Errorf("worker %d, %s: %v", worker, what, err)
					}
				}
				err := c.TestSlot(slot, key)
				if e := new(Error); !errors.As(err, &e) || !errors.Is(err, ErrWrongKey) || e.Object != c.Path() || e.Op != fmt.Sprintf("test slot %d", slot) {
					t.Errorf("worker %d: %v", worker, err)
				}
			}
			h, err := c.Header()
			if err != nil || len(h.Keyslots) != 5 || len(h.Tokens) != 4 || h.Damage() != nil {
				t.Errorf("worker %d: %+v, %v", worker, h, err)
			}
		})
	}
	group.Wait()
}
