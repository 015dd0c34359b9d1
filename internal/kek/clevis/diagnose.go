// SPDX-License-Identifier: Apache-2.0

package clevis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/clevis/policy"
	"github.com/voluks/voluks/internal/kek/subprocess"
)

// Clevis ends with status 1 whatever went wrong. Its words tell where to look, and the servers themselves whether they are there.

// probeTimeout is how long one server may take to show that it is there, when clevis has failed already.
const probeTimeout = 5 * time.Second

// encryptError says why there is no wrap.
func (p *provider) encryptError(ctx context.Context, err error) error {
	exit, err := p.common(ctx, "encrypt", err)
	if exit == nil {
		return err
	}
	if down := p.down(ctx); down != nil {
		return fmt.Errorf("encrypt: %w: %w", kek.ErrUnavailable, down)
	}
	return fmt.Errorf("encrypt: %w", p.at.Bad("policy", "clevis: %s", exit.Stderr))
}

// decryptError says why a wrap, in which tang servers have these shares, does not open.
func (p *provider) decryptError(ctx context.Context, err error, shares []policy.Share) error {
	exit, err := p.common(ctx, "decrypt", err)
	if exit == nil {
		return err
	}
	said := errors.New("clevis: " + exit.Stderr)
	if strings.Contains(exit.Stderr, "communicating with") {
		if down := p.down(ctx); down != nil {
			return fmt.Errorf("decrypt: %w: %w", kek.ErrUnavailable, down)
		}
		if gone := gone(ctx, shares); gone != nil {
			return fmt.Errorf("decrypt: %w: %w", kek.ErrNotFound, gone)
		}
	}
	if strings.Contains(exit.Stderr, "Unsealing jwk from TPM failed") {
		return fmt.Errorf("decrypt: %w: the TPM does not unseal: this node did not boot the way that the policy's PCRs demand, or it is not that TPM: %w", kek.ErrDenied, said)
	}
	return fmt.Errorf("decrypt: %w: %w", kek.ErrWrongKey, said)
}

// common sorts what has nothing to do with the policy. It returns either the exit of clevis, or the error.
func (p *provider) common(ctx context.Context, operation string, err error) (*subprocess.ExitError, error) {
	var exit *subprocess.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: %w: %w", operation, kek.ErrUnavailable, err)
	case !errors.As(err, &exit):
		return nil, fmt.Errorf("%s: %w", operation, p.at.Bad("pin", "%w", err))
	}
	for _, words := range []string{"TPM2 device", "device must be readable and writable", "Creating TPM2 primary key failed", "Could not load tcti", "Could not initialize TCTI"} {
		if strings.Contains(exit.Stderr, words) {
			return nil, fmt.Errorf("%s: %w: the TPM cannot be used now: %w", operation, kek.ErrUnavailable, exit)
		}
	}
	return exit, nil
}

var servers = &http.Client{
	Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// ask makes one request of a tang server, for its status alone.
func ask(ctx context.Context, method, url, body string) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	res, err := servers.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10)
	return res.StatusCode, nil
}

// down names the servers of the policy that do not answer, or do not answer as a tang server does; nil if there are none.
func (p *provider) down(ctx context.Context) error {
	var errs []error
	for _, server := range p.policy.Servers() {
		status, err := ask(ctx, http.MethodGet, server+"/adv", "")
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("the tang server %s does not answer: %w", server, err))
		case status >= 500 || status == http.StatusTooManyRequests:
			errs = append(errs, fmt.Errorf("the tang server %s answers with status %d", server, status))
		}
	}
	return errors.Join(errs...)
}

// gone names the keys of a wrap that the servers no longer have, or returns nil.
func gone(ctx context.Context, shares []policy.Share) error {
	var errs []error
	for _, share := range shares {
		// A request of the right form and without a point: a server that has the key says that it is a bad one.
		status, err := ask(ctx, http.MethodPost, share.URL+"/rec/"+url.PathEscape(share.Key), `{"kty":"EC","alg":"ECMR"}`)
		if err == nil && status == http.StatusNotFound {
			errs = append(errs, fmt.Errorf("the tang server %s no longer has the key %s", share.URL, share.Key))
		}
	}
	return errors.Join(errs...)
}
