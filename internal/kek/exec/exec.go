// SPDX-License-Identifier: Apache-2.0

// Package exec is the key provider whose key is kept by a program of the operator, for every key service that has no provider of its own here.
//
// The program is started once per request, which it reads as a JSON object from its standard input, and writes its answer, another one, to its
// standard output. docs/key-providers.md has the protocol, examples/kek-helper a program that speaks it.
package exec

import (
	"context"
	"fmt"
	"slices"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/secret"
)

const name = "exec"

// Provider wraps with the key of one program.
type Provider struct {
	settings Settings
	ref      kek.Ref
}

// New judges the settings and the program's file; it does not run it. Errors are *kek.ConfigError.
func New(s Settings) (kek.Provider, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	s.Command = slices.Clone(s.Command)
	return &Provider{settings: s, ref: kek.Ref{Provider: name, ID: s.ID}}, nil
}

// Ref has the name that the configuration gives the key.
func (p *Provider) Ref() kek.Ref { return p.ref }

// Generate makes a random W and has the program wrap it.
func (p *Provider) Generate(ctx context.Context, b kek.Binding) (w *secret.Key, wrap []byte, ref kek.Ref, err error) {
	if err := b.Validate(); err != nil {
		return nil, nil, kek.Ref{}, err
	}
	w, err = secret.Random(kek.KeySize)
	if err != nil {
		return nil, nil, kek.Ref{}, err
	}
	got, err := p.ask(ctx, request{Operation: "wrap", Volume: b.VolumeUUID, Role: b.Role}, w)
	if err == nil {
		wrap, ref, err = p.wrapped(got)
	}
	if err != nil {
		w.Wipe()
		return nil, nil, kek.Ref{}, err
	}
	return w, wrap, ref, nil
}

// Unwrap has the program unwrap W.
func (p *Provider) Unwrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) (*secret.Key, error) {
	r, err := p.request("unwrap", b, ref, wrap)
	if err != nil {
		return nil, err
	}
	got, err := p.ask(ctx, r, nil)
	if err != nil {
		return nil, err
	}
	if n := len(got.Plaintext); n != kek.KeySize {
		clear(got.Plaintext)
		return nil, fmt.Errorf("unwrap: %w: %w", kek.ErrWrongKey,
			p.settings.bad("command", "%s returned %d bytes instead of %d", p.settings.Command[0], n, kek.KeySize))
	}
	return secret.Move(got.Plaintext)
}

// Rewrap has the program renew the wrap. Of one that cannot the error wraps errors.ErrUnsupported.
func (p *Provider) Rewrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) ([]byte, kek.Ref, error) {
	r, err := p.request("rewrap", b, ref, wrap)
	if err != nil {
		return nil, kek.Ref{}, err
	}
	got, err := p.ask(ctx, r, nil)
	if err != nil {
		return nil, kek.Ref{}, err
	}
	return p.wrapped(got)
}

func (p *Provider) request(operation string, b kek.Binding, ref kek.Ref, wrap []byte) (request, error) {
	if err := b.Validate(); err != nil {
		return request{}, err
	}
	if !ref.SameKey(p.ref) {
		return request{}, &kek.NotMineError{Want: ref, Have: p.ref}
	}
	if len(wrap) == 0 || len(wrap) > kek.MaxWrap {
		return request{}, fmt.Errorf("%w: a wrap of %d bytes", kek.ErrWrongKey, len(wrap))
	}
	return request{Operation: operation, Volume: b.VolumeUUID, Role: b.Role, KeyVersion: ref.Version, Wrap: wrap}, nil
}

// wrapped takes a wrap out of an answer.
func (p *Provider) wrapped(got *answer) ([]byte, kek.Ref, error) {
	clear(got.Plaintext) // it has no business there
	ref := p.ref
	ref.Version = got.KeyVersion
	if err := ref.Validate(); err != nil {
		return nil, kek.Ref{}, p.settings.bad("command", "%s answers with a key_version that is none: %w", p.settings.Command[0], err)
	}
	if n := len(got.Wrap); n == 0 || n > kek.MaxWrap {
		return nil, kek.Ref{}, p.settings.bad("command", "%s returned a wrap of %d bytes (1 to %d)", p.settings.Command[0], n, kek.MaxWrap)
	}
	return got.Wrap, ref, nil
}
