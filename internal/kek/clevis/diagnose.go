// SPDX-License-Identifier: Apache-2.0

package clevis

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/clevis/policy"
	"github.com/voluks/voluks/internal/kek/clevis/tang"
	"github.com/voluks/voluks/internal/kek/subprocess"
)

// Clevis ends with status 1 whatever went wrong. Its words tell where to look, and the servers themselves whether they are there.
var (
	// away is what may come, or come back.
	away = []kek.Cause{
		{Said: "tpm2 device|device must be readable and writable|creating tpm2 primary key failed|could not load tcti|could not initialize tcti",
			Kind: kek.ErrUnavailable, Means: "the TPM cannot be used now"},
		{Said: "no slots|no slot with a token|token not initialized|ckr_token_not_|ckr_device_removed", Kind: kek.ErrUnavailable, Means: "the token is not there now"},
	}
	// denied is what does not pass by itself.
	denied = []kek.Cause{{Said: "unsealing jwk from tpm failed", Kind: kek.ErrDenied,
		Means: "the TPM does not unseal: this node did not boot the way that the policy's PCRs demand, or it is not that TPM"}}
)

// encryptError says why there is no wrap.
func (p *provider) encryptError(ctx context.Context, err error) error {
	said, err := p.said(ctx, err)
	if err == nil {
		err = tang.Down(ctx, p.policy.Servers())
	}
	if err == nil {
		err = p.at.Bad("policy", "%w", said)
	}
	return fmt.Errorf("encrypt: %w", err)
}

// decryptError says why a wrap, in which tang servers have these shares, does not open.
func (p *provider) decryptError(ctx context.Context, err error, shares []policy.Share) error {
	said, err := p.said(ctx, err)
	var pin error
	if said != nil {
		pin = p.pinError(said) // whatever else is wrong
	}
	if err == nil && strings.Contains(said.Error(), "communicating with") {
		if err = tang.Down(ctx, p.policy.Servers()); err == nil {
			err = tang.Gone(ctx, shares)
		}
	}
	if err == nil {
		err = p.at.Explain(said, denied)
	}
	switch {
	case err != nil && pin != nil:
		err = fmt.Errorf("%w; %s", err, pin) // of the kind that may pass or not as the first is
	case pin != nil:
		err = pin
	case err == nil:
		err = fmt.Errorf("%w: %w", kek.ErrWrongKey, said)
	}
	return fmt.Errorf("decrypt: %w", err)
}

// pinError says why a token does not let clevis in, or returns nil. A PIN that the token has refused is removed: whoever cannot unlock tries again, and a
// few wrong PINs lock a token for good.
func (p *provider) pinError(said error) error {
	_, missing := os.Stat(p.pinFile)
	switch {
	case strings.Contains(said.Error(), "CKR_PIN_"):
		if missing == nil {
			missing = os.Remove(p.pinFile)
		}
		if missing == nil {
			said = fmt.Errorf("it was removed, before the token locks itself (%w)", said)
		}
		return fmt.Errorf("%w: the token does not take the PIN in %s; %w", kek.ErrDenied, p.pinFile, said)
	case missing != nil && strings.Contains(said.Error(), "Invalid PIN?"):
		return fmt.Errorf("%w: clevis finds no PIN for the token: %w (%w)", kek.ErrUnavailable, missing, said)
	}
	return nil
}

// said returns the words of a clevis that failed, or, where it is plain without them or the policy what is wrong, the error.
func (p *provider) said(ctx context.Context, failed error) (said, err error) {
	var exit *subprocess.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %w", kek.ErrUnavailable, failed)
	case !errors.As(failed, &exit):
		return nil, p.at.Bad("pin", "%w", failed)
	}
	said = fmt.Errorf("clevis: %s", exit.Stderr)
	return said, p.at.Explain(said, away)
}
