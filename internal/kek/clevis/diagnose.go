// SPDX-License-Identifier: Apache-2.0

package clevis

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/subprocess"
)

// Clevis ends with status 1 whatever went wrong. Its words tell where to look, and the servers themselves whether they are there.

// probeTimeout is how long one server may take to show that it is there, when clevis has failed already.
const probeTimeout = 5 * time.Second

// encryptError says why there is no wrap.
func (p *Provider) encryptError(ctx context.Context, err error) error {
	exit, err := p.common(ctx, "encrypt", err)
	if exit == nil {
		return err
	}
	if down := p.down(ctx); down != nil {
		return fmt.Errorf("encrypt: %w: %w", kek.ErrUnavailable, down)
	}
	return fmt.Errorf("encrypt: %w", p.settings.bad("policy", "clevis: %s", exit.Stderr))
}

// decryptError says why a wrap, whose header is given, does not open.
func (p *Provider) decryptError(ctx context.Context, err error, h *header) error {
	exit, err := p.common(ctx, "decrypt", err)
	if exit == nil {
		return err
	}
	said := errors.New("clevis: " + exit.Stderr)
	if strings.Contains(exit.Stderr, "communicating with") {
		if down := p.down(ctx); down != nil {
			return fmt.Errorf("decrypt: %w: %w", kek.ErrUnavailable, down)
		}
		if gone := p.gone(ctx, h); gone != nil {
			return fmt.Errorf("decrypt: %w: %w", kek.ErrNotFound, gone)
		}
	}
	if strings.Contains(exit.Stderr, "Unsealing jwk from TPM failed") {
		return fmt.Errorf("decrypt: %w: the TPM does not unseal: this node did not boot the way that the policy's PCRs demand, or it is not that TPM: %w", kek.ErrDenied, said)
	}
	return fmt.Errorf("decrypt: %w: %w", kek.ErrWrongKey, said)
}

// common sorts what has nothing to do with the policy. It returns either the exit of clevis, or the error.
func (p *Provider) common(ctx context.Context, operation string, err error) (*subprocess.ExitError, error) {
	var exit *subprocess.ExitError
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s: %w: %w", operation, kek.ErrUnavailable, err)
	case !errors.As(err, &exit):
		return nil, fmt.Errorf("%s: %w", operation, &kek.ConfigError{Setting: p.settings.At + ".pin", Err: err})
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
func ask(ctx context.Context, method, url string, body []byte) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/jwk+json")
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
func (p *Provider) down(ctx context.Context) error {
	var errs []error
	for _, server := range p.policy.servers() {
		status, err := ask(ctx, http.MethodGet, server+"/adv", nil)
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
func (p *Provider) gone(ctx context.Context, h *header) error {
	if h.Clevis.Pin == "sss" {
		var errs []error
		for _, jwe := range h.Clevis.SSS.JWE {
			if below, err := parse([]byte(jwe)); err == nil {
				errs = append(errs, p.gone(ctx, below))
			}
		}
		return errors.Join(errs...)
	}
	if h.Clevis.Pin != "tang" {
		return nil
	}
	point, err := somePoint(h.Epk.Crv)
	if err != nil {
		return nil // of a curve that tang does not have either
	}
	status, err := ask(ctx, http.MethodPost, h.Clevis.Tang.URL+"/rec/"+url.PathEscape(h.KeyID), point)
	if err != nil || status != http.StatusNotFound {
		return nil
	}
	return fmt.Errorf("the tang server %s no longer has the key %s", h.Clevis.Tang.URL, h.KeyID)
}

// somePoint is a valid request to a tang server that means nothing: a random point of the curve, as a JWK.
func somePoint(curve string) ([]byte, error) {
	curves := map[string]ecdh.Curve{"P-256": ecdh.P256(), "P-384": ecdh.P384(), "P-521": ecdh.P521()}
	if curves[curve] == nil {
		return nil, errors.ErrUnsupported
	}
	key, err := curves[curve].GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	point := key.PublicKey().Bytes()[1:] // after the mark of an uncompressed point: x, y
	encode := base64.RawURLEncoding.EncodeToString
	return json.Marshal(map[string]string{"alg": "ECMR", "kty": "EC", "crv": curve, "x": encode(point[:len(point)/2]), "y": encode(point[len(point)/2:])})
}
