// SPDX-License-Identifier: Apache-2.0

// Package vault is the key provider whose key is in the transit engine of HashiCorp Vault or OpenBao.
//
// W is made here and encrypted there. Transit can tie a ciphertext to volume and role in one way that survives its rewrap: the context of a derived
// key. On other keys it ignores the context without a word, so the setting says which kind the key is, and Generate has the server prove it. What
// ties every W to its volume and role, whatever the key, is that the slot key under it is sealed with associated data of our own.
//
// Copies of W that cannot be wiped stay in the buffers of net/http and crypto/tls until the process ends.
package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/vault/vaultapi"
	"github.com/voluks/voluks/internal/kek/wire"
	"github.com/voluks/voluks/internal/lateregexp"
	"github.com/voluks/voluks/internal/secret"
)

var (
	keyName = lateregexp.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	// A ciphertext of transit: the version of the key, and base64.
	ciphertext = lateregexp.New(`^vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/]+=*$`)
)

// causes are what the transit engine says where the status alone does not tell. These are its own words; the tests in transittest ask it.
var causes = []kek.Cause{
	{Said: "encryption key not found", Setting: "key", Kind: kek.ErrNotFound, Means: "there is no such key"},
	{Said: "disallowed by policy", Kind: kek.ErrDisabled, Means: "the version of the key that wrapped is below its min_decryption_version"},
	{Said: "missing 'context'", Setting: "derived", Means: "must be true: the key was made with derived=true"},
	{Said: "no handler for route", Setting: "mount", Kind: kek.ErrNotFound, Means: "nothing is mounted there"},
	{Said: "unsupported path", Setting: "mount", Kind: kek.ErrNotFound, Means: "is not a transit engine"},
	// "decryption error" is of an RSA key, and comes with status 500.
	{Said: "invalid ciphertext|message authentication failed|decryption error", Kind: kek.ErrWrongKey, Means: "the server cannot open it"},
	{Said: "not support decryption|not supported for key type", Setting: "key", Means: "is a key that cannot encrypt"},
}

// provider wraps with one transit key.
type provider struct {
	at      kek.Table
	server  *vaultapi.Client
	mount   string
	key     string
	derived bool
	ref     kek.Ref
}

// New judges the settings and reads the certificates; it does not ask the server. Errors are *kek.ConfigError.
func New(at kek.Table, s config.Vault) (kek.Provider, error) {
	mount := cmp.Or(s.Mount, "transit")
	switch {
	case !keyName().MatchString(s.Key):
		return nil, at.Bad("key", "%q is not the name of a transit key", s.Key)
	case !vaultapi.IsPath(mount):
		return nil, at.Bad("mount", "%q is not the path of a mount", mount)
	}
	server, err := vaultapi.New(at, s, causes)
	if err != nil {
		return nil, err
	}
	ref := kek.Ref{Provider: "vault", ID: path.Join(server.Namespace(), mount, s.Key)}
	return &provider{at, server, mount, s.Key, s.Derived, ref}, nil
}

// Ref names the key by namespace, mount and name, which stay when a server gets another address. Its version is the server's to choose.
func (p *provider) Ref() kek.Ref { return p.ref }

// Generate makes a random W and has it encrypted. Of a key that is said to be derived it then asks the server to decrypt for another volume, which
// must fail.
func (p *provider) Generate(ctx context.Context, b kek.Binding) (*secret.Key, []byte, kek.Ref, error) {
	return kek.Make(b, func(w *secret.Key) ([]byte, kek.Ref, error) {
		token, err := p.server.Login(ctx)
		if err != nil {
			return nil, kek.Ref{}, err
		}
		wrap, ref, err := p.wrap(ctx, token, "encrypt", b, nil, w)
		if err == nil && p.derived {
			err = p.proveDerived(ctx, token, b, wrap)
		}
		return wrap, ref, err
	})
}

// proveDerived fails unless the server refuses to decrypt for another volume.
func (p *provider) proveDerived(ctx context.Context, token string, b kek.Binding, wrap []byte) error {
	b.VolumeUUID += " (a proof that the key is derived)"
	got, err := p.ask(ctx, token, "decrypt", b, wrap, nil)
	switch {
	case err == nil:
		clear(got.Plaintext)
		return p.at.Bad("derived", "is true, but key %s was made without derived=true: it ignores the volume; say derived = false, or use another key", p.key)
	case errors.Is(err, kek.ErrWrongKey):
		return nil
	}
	return fmt.Errorf("check that the key is derived: %w", err)
}

// Unwrap has W decrypted.
func (p *provider) Unwrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) (*secret.Key, error) {
	token, err := p.begin(ctx, b, ref, wrap)
	if err != nil {
		return nil, err
	}
	got, err := p.ask(ctx, token, "decrypt", b, wrap, nil)
	if err != nil {
		return nil, err
	}
	return p.at.Key("key", got.Plaintext)
}

// Rewrap has the wrap renewed with the newest version of the key; W does not leave the server.
func (p *provider) Rewrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) ([]byte, kek.Ref, error) {
	token, err := p.begin(ctx, b, ref, wrap)
	if err != nil {
		return nil, kek.Ref{}, err
	}
	return p.wrap(ctx, token, "rewrap", b, wrap, nil)
}

// begin refuses what cannot be a wrap of this key, before it is sent anywhere, and logs in.
func (p *provider) begin(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) (token string, err error) {
	if err := p.ref.CanOpen(b, ref, wrap); err != nil {
		return "", err
	}
	if !ciphertext().Match(wrap) {
		return "", fmt.Errorf("%w: it is no ciphertext of transit", kek.ErrWrongKey)
	}
	return p.server.Login(ctx)
}

// wrap is ask, for a ciphertext, which says with which version of the key it was made.
func (p *provider) wrap(ctx context.Context, token, operation string, b kek.Binding, wrap []byte, w *secret.Key) ([]byte, kek.Ref, error) {
	got, err := p.ask(ctx, token, operation, b, wrap, w)
	if err != nil {
		return nil, kek.Ref{}, err
	}
	match := ciphertext().FindStringSubmatch(got.Ciphertext)
	if match == nil || len(got.Ciphertext) > kek.MaxWrap {
		return nil, kek.Ref{}, p.at.Bad("mount", "is not a transit engine: its answer has no ciphertext of one")
	}
	ref := p.ref
	ref.Version = match[1]
	return []byte(got.Ciphertext), ref, nil
}

// answer is the data of an answer of the engine.
type answer struct {
	Ciphertext string `json:"ciphertext"`
	Plaintext  []byte `json:"plaintext"`
}

// ask has the engine do one operation. w is borrowed, or nil. A plaintext in the answer is the caller's to clear.
func (p *provider) ask(ctx context.Context, token, operation string, b kek.Binding, wrap []byte, w *secret.Key) (*answer, error) {
	request := struct {
		Context    []byte `json:"context,omitempty"`
		Ciphertext string `json:"ciphertext,omitempty"`
	}{Ciphertext: string(wrap)}
	if p.derived {
		request.Context = b.Bytes()
	}
	body, err := wire.Object(request, "plaintext", w)
	if err != nil {
		return nil, err
	}
	defer body.Wipe()
	var got answer
	if err := p.server.Write(ctx, token, path.Join(p.mount, operation, p.key), body, &got); err != nil {
		clear(got.Plaintext)
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	return &got, nil
}
