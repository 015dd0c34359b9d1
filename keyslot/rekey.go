// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"context"
	"fmt"
	"slices"

	"github.com/voluks/voluks/internal/recovery"
)

// Rekey seals the recovery slot to the recipients of the keyring and to nobody else: a new key in a new slot, by Rotate, after which the old slot is
// destroyed. An interrupted rotation is ended first, which may be all there is to do. It returns nil if the slot is sealed so already. Errors are those of
// Rotate.
//
// Whoever has an old identity and a copy of the header from before still opens the volume; only reencrypting helps against that.
func Rekey(ctx context.Context, c Container, k *Keyring) (*Rotated, error) {
	if len(k.Recipients) == 0 {
		return nil, fmt.Errorf("seal the recovery slot anew: %w", ErrNoRecovery)
	}
	found, err := Recover(ctx, c, k)
	if err != nil {
		return nil, fmt.Errorf("seal the recovery slot anew: %w", err)
	}
	h, err := c.Header()
	if err != nil {
		return nil, fmt.Errorf("seal the recovery slot anew: %w", err)
	}
	slots, err := State(h)
	if err != nil {
		return nil, fmt.Errorf("seal the recovery slot anew: %w", err)
	}
	if !slots.SealedTo(k.Recipients) {
		return Rotate(ctx, c, k, RoleRecovery)
	}
	if found.Finished != nil && found.Finished.Role == RoleRecovery {
		return found.Finished, nil
	}
	return nil, nil
}

// SealedTo says whether the recovery slot is sealed to exactly these recipients, as its token has it.
func (s *Slots) SealedTo(recipients []recovery.Recipient) bool {
	want := recovery.Fingerprints(recipients)
	slices.Sort(want)
	for _, t := range s.recovery {
		have := slices.Clone(t.Recipients)
		slices.Sort(have)
		if !slices.Equal(have, want) {
			return false
		}
	}
	return len(s.recovery) > 0
}

// ProveRecovery shows that an identity opens the recovery slot, by both implementations, and returns the slot's number. Nothing is written. Errors are
// those of UnlockRecovery, and *ProofError.
func ProveRecovery(c Container, identities []recovery.Identity) (int, error) {
	slot, key, err := UnlockRecovery(c, identities)
	if err != nil {
		return 0, err
	}
	defer key.Wipe()
	return slot, Prove(c, slot, key)
}
