// SPDX-License-Identifier: Apache-2.0

// Package file is the key provider whose key is a file of 32 random bytes on this node.
//
// The master key wraps as package local says. It is read from the file for each operation and wiped
// after it, so that a running agent does not hold it.
package file

import (
	"context"
	"fmt"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/local"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
)

const name = "file"

// Provider wraps with the master key in one file.
type Provider struct {
	path string
	ref  kek.Ref
}

// New reads the master key at path once, to check it and to learn its fingerprint. Errors are
// *KeyFileError.
func New(path string) (kek.Provider, error) {
	master, err := Read(path)
	if err != nil {
		return nil, err
	}
	defer master.Wipe()
	ref, err := local.Ref(name, master)
	if err != nil {
		return nil, err
	}
	return &Provider{path: path, ref: ref}, nil
}

// Ref names the key that the file had when the provider was made.
func (p *Provider) Ref() kek.Ref { return p.ref }

// Generate makes a random W and seals it for the binding. The key file is made durable before: whoever made it may not have seen to that, and a power cut
// must not leave volumes without their key.
func (p *Provider) Generate(ctx context.Context, b kek.Binding) (w *secret.Key, wrap []byte, ref kek.Ref, err error) {
	master, ref, err := p.open(ctx)
	if err != nil {
		return nil, nil, kek.Ref{}, err
	}
	defer master.Wipe()
	if err := sys.SyncFile(p.path); err != nil {
		return nil, nil, kek.Ref{}, &KeyFileError{Path: p.path, Err: fmt.Errorf("cannot be made durable: %w", errnoOf(err))}
	}
	w, wrap, err = local.Generate(name, master, b)
	return w, wrap, ref, err
}

// Unwrap opens what Generate has sealed. If the file holds another key by now than the one that ref
// names, the error is a *kek.NotMineError with both fingerprints.
func (p *Provider) Unwrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) (*secret.Key, error) {
	if ref.Provider != name {
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
	return local.Unwrap(name, master, b, wrap)
}

// open reads the master key, which the caller wipes, and says whose it is.
func (p *Provider) open(ctx context.Context) (*secret.Key, kek.Ref, error) {
	if err := ctx.Err(); err != nil {
		return nil, kek.Ref{}, err
	}
	master, err := Read(p.path)
	if err != nil {
		return nil, kek.Ref{}, err
	}
	ref, err := local.Ref(name, master)
	if err != nil {
		master.Wipe()
		return nil, kek.Ref{}, err
	}
	return master, ref, nil
}
