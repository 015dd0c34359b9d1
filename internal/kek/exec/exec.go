// SPDX-License-Identifier: Apache-2.0

// Package exec is the key provider whose key is kept by a program of the operator, for every key service that has no provider of its own here.
//
// The program is started once per request, which it reads as a JSON object from its standard input, and writes its answer, another one, to its
// standard output. docs/key-providers.md has the protocol, examples/kek-helper a program that speaks it.
package exec

import (
	"context"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/secret"
)

// provider wraps with the key of one program.
type provider struct {
	at       kek.Table
	settings config.Exec
	ref      kek.Ref
}

// New judges the settings and the program's file; it does not run it. Errors are *kek.ConfigError.
func New(at kek.Table, s config.Exec) (kek.Provider, error) {
	if err := check(at, s); err != nil {
		return nil, err
	}
	return &provider{at, s, kek.Ref{Provider: "exec", ID: s.ID}}, nil
}

// Ref has the name that the configuration gives the key.
func (p *provider) Ref() kek.Ref { return p.ref }

// Generate makes a random W and has the program wrap it.
func (p *provider) Generate(ctx context.Context, b kek.Binding) (*secret.Key, []byte, kek.Ref, error) {
	return kek.Make(b, func(w *secret.Key) ([]byte, kek.Ref, error) {
		return p.wrap(ctx, "wrap", b, "", nil, w)
	})
}

// Unwrap has the program unwrap W.
func (p *provider) Unwrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) (*secret.Key, error) {
	if err := p.ref.CanOpen(b, ref, wrap); err != nil {
		return nil, err
	}
	got, err := p.ask(ctx, "unwrap", b, ref.Version, wrap, nil)
	if err != nil {
		return nil, err
	}
	return p.at.Key("command", got.Plaintext)
}

// Rewrap has the program renew the wrap. Of one that cannot the error wraps errors.ErrUnsupported.
func (p *provider) Rewrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) ([]byte, kek.Ref, error) {
	if err := p.ref.CanOpen(b, ref, wrap); err != nil {
		return nil, kek.Ref{}, err
	}
	return p.wrap(ctx, "rewrap", b, ref.Version, wrap, nil)
}

// wrap is ask, for a wrap.
func (p *provider) wrap(ctx context.Context, operation string, b kek.Binding, version string, wrap []byte, w *secret.Key) ([]byte, kek.Ref, error) {
	got, err := p.ask(ctx, operation, b, version, wrap, w)
	if err != nil {
		return nil, kek.Ref{}, err
	}
	clear(got.Plaintext) // it has no business there
	ref := p.ref
	ref.Version = got.KeyVersion
	if err := ref.Validate(); err != nil {
		return nil, kek.Ref{}, p.at.Bad("command", "%s answers with a key_version that is none: %w", p.settings.Command[0], err)
	}
	if n := len(got.Wrap); n == 0 || n > kek.MaxWrap {
		return nil, kek.Ref{}, p.at.Bad("command", "%s returned a wrap of %d bytes (1 to %d)", p.settings.Command[0], n, kek.MaxWrap)
	}
	return got.Wrap, ref, nil
}
