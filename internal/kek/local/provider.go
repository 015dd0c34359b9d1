// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/secret"
)

// provider wraps with a master key that is read for each operation and wiped after it, so that a running agent does not hold it.
type provider struct {
	name string
	read func(context.Context) (*secret.Key, error)
	ref  kek.Ref
}

// New makes a provider of one master key, which read returns, and which is wiped then. It reads it once, to learn its fingerprint. Errors are those of
// read.
func New(ctx context.Context, name string, read func(context.Context) (*secret.Key, error)) (kek.Provider, error) {
	p := &provider{name: name, read: read}
	master, ref, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	master.Wipe()
	p.ref = ref
	return p, nil
}

// Ref names the key that there was when the provider was made.
func (p *provider) Ref() kek.Ref { return p.ref }

// Generate makes a random W and seals it for the binding.
func (p *provider) Generate(ctx context.Context, b kek.Binding) (w *secret.Key, wrap []byte, ref kek.Ref, err error) {
	master, ref, err := p.open(ctx)
	if err != nil {
		return nil, nil, kek.Ref{}, err
	}
	defer master.Wipe()
	w, wrap, err = Generate(p.name, master, b)
	return w, wrap, ref, err
}

// Unwrap opens what Generate has sealed. If there is another key by now than the one that ref names, the error is a *kek.NotMineError with both
// fingerprints.
func (p *provider) Unwrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) (*secret.Key, error) {
	if ref.Provider != p.name {
		return nil, &kek.NotMineError{Want: ref, Have: p.ref}
	}
	master, have, err := p.open(ctx)
	if err != nil {
		return nil, err
	}
	defer master.Wipe()
	if !ref.SameKey(have) {
		return nil, &kek.NotMineError{Want: ref, Have: have}
	}
	return Unwrap(p.name, master, b, wrap)
}

// open reads the master key, which the caller wipes, and says whose it is.
func (p *provider) open(ctx context.Context) (*secret.Key, kek.Ref, error) {
	if err := ctx.Err(); err != nil {
		return nil, kek.Ref{}, err
	}
	master, err := p.read(ctx)
	if err != nil {
		return nil, kek.Ref{}, err
	}
	ref, err := Ref(p.name, master)
	if err != nil {
		master.Wipe()
		return nil, kek.Ref{}, err
	}
	return master, ref, nil
}
