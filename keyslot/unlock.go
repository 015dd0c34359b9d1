// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"context"
	"errors"
	"fmt"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/secret"
)

// Unlock returns the number and the key of the agent slot, by the key provider that its token names.
// The caller wipes the key. That the key opens the slot is for the activation to find out, which
// checks it anyway; that it is the key of this volume, role and generation is certain.
//
// Errors are those of kek.Set.Unwrap, ErrWrongKey, or ErrNoAgentSlot joined with what State says. While
// a rotation is under way there may be two agent slots: the newer one is tried first. With identities in
// the keyring it is the recovery slot if none of them opens; errors are those of UnlockRecovery then, too.
func Unlock(ctx context.Context, c Container, k *Keyring) (slot int, key *secret.Key, err error) {
	h, err := c.Header()
	if err != nil {
		return 0, nil, fmt.Errorf("unlock: %w", err)
	}
	slots, stateErr := State(h)
	var errs []error
	if len(slots.agent) == 0 {
		errs = append(errs, fmt.Errorf("unlock: %w", join(ErrNoAgentSlot, stateErr)))
	}
	for _, token := range slots.agent {
		if k.KEK == nil {
			break
		}
		key, err := unlock(ctx, k, token)
		if err == nil {
			return token.Slot, key, nil
		}
		errs = append(errs, fmt.Errorf("unlock the agent slot %d: %w", token.Slot, err))
		if ctx.Err() != nil {
			return 0, nil, errors.Join(errs...)
		}
	}
	if len(k.Identities) == 0 && k.KEK != nil {
		return 0, nil, errors.Join(errs...)
	}
	if slot, key, err = UnlockRecovery(c, k.Identities); err == nil {
		return slot, key, nil
	}
	return 0, nil, errors.Join(append(errs, err)...)
}

func unlock(ctx context.Context, k *Keyring, token AgentToken) (*secret.Key, error) {
	w, err := k.KEK.Unwrap(ctx, kek.Binding{VolumeUUID: token.UUID, Role: RoleAgent}, token.KEK, token.Wrap)
	if err != nil {
		return nil, err
	}
	defer w.Wipe()
	return unseal(w, token.Sealed, token.UUID, RoleAgent, token.Generation)
}

// UnlockRecovery returns the number and the key of the recovery slot, by one of the identities. The
// caller wipes the key. Errors wrap recovery.ErrWrongIdentity, recovery.ErrSealed, or ErrNoRecoverySlot
// joined with what State says.
//
// What age seals is bound to nothing, so a token may have been put here from another volume; its key
// then does not open the slot.
func UnlockRecovery(c Container, identities []recovery.Identity) (slot int, key *secret.Key, err error) {
	h, err := c.Header()
	if err != nil {
		return 0, nil, fmt.Errorf("unlock: %w", err)
	}
	slots, stateErr := State(h)
	if len(slots.recovery) == 0 {
		return 0, nil, fmt.Errorf("unlock: %w", join(ErrNoRecoverySlot, stateErr))
	}
	var errs []error
	for _, token := range slots.recovery {
		key, err := recovery.Open(token.Age, identities)
		if err == nil {
			return token.Slot, key, nil
		}
		errs = append(errs, fmt.Errorf("unlock the recovery slot %d: %w", token.Slot, err))
	}
	return 0, nil, errors.Join(errs...)
}

// join puts a reason behind an error, on one line, if there is one.
func join(err, reason error) error {
	if reason == nil {
		return err
	}
	return fmt.Errorf("%w: %w", err, reason)
}
