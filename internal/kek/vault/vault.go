// SPDX-License-Identifier: Apache-2.0

// Package vault is the key provider whose key is in the transit engine of HashiCorp Vault or OpenBao, which both speak the same HTTP API.
//
// W is made here and encrypted there. Transit can tie a ciphertext to volume and role in one way that survives its rewrap: the context of a derived
// key. On other keys it ignores the context without a word, so the setting says which kind the key is, and Generate has the server prove it. What
// ties every W to its volume and role, whatever the key, is that the slot key under it is sealed with associated data of our own.
//
// Copies of W that cannot be wiped stay in the buffers of net/http and crypto/tls until the process ends.
package vault

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/wire"
	"github.com/voluks/voluks/internal/secret"
)

const name = "vault"

// A ciphertext of transit: the version of the key, and base64.
var ciphertext = regexp.MustCompile(`^vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/]+=*$`)

// Provider wraps with one transit key.
type Provider struct {
	client *client
	ref    kek.Ref
}

// New judges the settings and reads the certificates; it does not ask the server. Errors are *kek.ConfigError.
func New(s Settings) (kek.Provider, error) {
	if s.AppRole != nil {
		role := *s.AppRole // completed below
		s.AppRole = &role
	}
	c, err := newClient(s)
	if err != nil {
		return nil, err
	}
	id := c.settings.Mount + "/" + c.settings.Key
	if ns := c.settings.Namespace; ns != "" {
		id = ns + "/" + id
	}
	return &Provider{client: c, ref: kek.Ref{Provider: name, ID: id}}, nil
}

// Ref names the key by namespace, mount and name, which stay when a server gets another address. Its version is the server's to choose.
func (p *Provider) Ref() kek.Ref { return p.ref }

// Generate makes a random W and has it encrypted. Of a key that is said to be derived it then asks the server to decrypt for another volume, which
// must fail.
func (p *Provider) Generate(ctx context.Context, b kek.Binding) (w *secret.Key, wrap []byte, ref kek.Ref, err error) {
	if err := b.Validate(); err != nil {
		return nil, nil, kek.Ref{}, err
	}
	token, err := p.client.login(ctx)
	if err != nil {
		return nil, nil, kek.Ref{}, err
	}
	made, err := secret.Random(kek.KeySize)
	if err != nil {
		return nil, nil, kek.Ref{}, err
	}
	defer func() {
		if err != nil {
			made.Wipe() // not w: a return has set that to nil by now
		}
	}()
	body, err := wire.Object(request{Context: p.context(b)}, "plaintext", made)
	if err != nil {
		return nil, nil, kek.Ref{}, err
	}
	defer body.Wipe()
	got, err := p.call(ctx, token, "encrypt", body)
	if err != nil {
		return nil, nil, kek.Ref{}, err
	}
	if ref, err = p.refOf(got.Data.Ciphertext); err != nil {
		return nil, nil, kek.Ref{}, err
	}
	if p.client.settings.Derived {
		if err := p.proveDerived(ctx, token, b, got.Data.Ciphertext); err != nil {
			return nil, nil, kek.Ref{}, err
		}
	}
	return made, []byte(got.Data.Ciphertext), ref, nil
}

// proveDerived fails unless the server refuses to decrypt for another volume.
func (p *Provider) proveDerived(ctx context.Context, token string, b kek.Binding, wrapped string) error {
	b.VolumeUUID += " (a proof that the key is derived)"
	other, err := p.decrypt(ctx, token, b, wrapped)
	other.Wipe()
	switch {
	case err == nil:
		return p.client.settings.bad("derived", "is true, but key %s was made without derived=true: it ignores the volume; say derived = false, or use another key",
			p.client.settings.Key)
	case errors.Is(err, kek.ErrWrongKey):
		return nil
	}
	return fmt.Errorf("check that the key is derived: %w", err)
}

// Unwrap has W decrypted.
func (p *Provider) Unwrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) (*secret.Key, error) {
	if err := p.mine(b, ref, wrap); err != nil {
		return nil, err
	}
	token, err := p.client.login(ctx)
	if err != nil {
		return nil, err
	}
	return p.decrypt(ctx, token, b, string(wrap))
}

// Rewrap has the wrap renewed with the newest version of the key; W does not leave the server.
func (p *Provider) Rewrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) ([]byte, kek.Ref, error) {
	if err := p.mine(b, ref, wrap); err != nil {
		return nil, kek.Ref{}, err
	}
	token, err := p.client.login(ctx)
	if err != nil {
		return nil, kek.Ref{}, err
	}
	body, err := wire.Object(request{Context: p.context(b), Ciphertext: string(wrap)}, "", nil)
	if err != nil {
		return nil, kek.Ref{}, err
	}
	defer body.Wipe()
	got, err := p.call(ctx, token, "rewrap", body)
	if err != nil {
		return nil, kek.Ref{}, err
	}
	if ref, err = p.refOf(got.Data.Ciphertext); err != nil {
		return nil, kek.Ref{}, err
	}
	return []byte(got.Data.Ciphertext), ref, nil
}

func (p *Provider) decrypt(ctx context.Context, token string, b kek.Binding, wrapped string) (*secret.Key, error) {
	body, err := wire.Object(request{Context: p.context(b), Ciphertext: wrapped}, "", nil)
	if err != nil {
		return nil, err
	}
	defer body.Wipe()
	got, err := p.call(ctx, token, "decrypt", body)
	if err != nil {
		return nil, err
	}
	if n := len(got.Data.Plaintext); n != kek.KeySize {
		return nil, fmt.Errorf("%w: %w", kek.ErrWrongKey, p.client.settings.bad("key", "the key server returned %d bytes instead of %d", n, kek.KeySize))
	}
	return secret.Move(got.Data.Plaintext)
}

// mine refuses what cannot be a wrap of this key, before it is sent anywhere.
func (p *Provider) mine(b kek.Binding, ref kek.Ref, wrap []byte) error {
	if err := b.Validate(); err != nil {
		return err
	}
	if !ref.SameKey(p.ref) {
		return &kek.NotMineError{Want: ref, Have: p.ref}
	}
	if len(wrap) > kek.MaxWrap || !ciphertext.Match(wrap) {
		return fmt.Errorf("%w: it is no ciphertext of transit", kek.ErrWrongKey)
	}
	return nil
}

// refOf names the key and the version that a ciphertext says it was made with.
func (p *Provider) refOf(wrapped string) (kek.Ref, error) {
	match := ciphertext.FindStringSubmatch(wrapped)
	if match == nil || len(wrapped) > kek.MaxWrap {
		return kek.Ref{}, p.client.settings.bad("mount", "is not a transit engine: its answer has no ciphertext of one")
	}
	ref := p.ref
	ref.Version = match[1]
	return ref, nil
}

type request struct {
	Context    []byte `json:"context,omitempty"`
	Ciphertext string `json:"ciphertext,omitempty"`
}

func (p *Provider) context(b kek.Binding) []byte {
	if !p.client.settings.Derived {
		return nil
	}
	return b.Bytes()
}

func (p *Provider) call(ctx context.Context, token, operation string, body *secret.Key) (*answer, error) {
	s := &p.client.settings
	got, err := p.client.post(ctx, token, strings.Join([]string{s.Mount, operation, s.Key}, "/"), body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	return got, nil
}
