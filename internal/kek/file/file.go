// SPDX-License-Identifier: Apache-2.0

// Package file is the key provider whose key is a file of 32 random bytes on this node, which wraps as package local says.
package file

import (
	"context"
	"fmt"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/keyfile"
	"github.com/voluks/voluks/internal/kek/local"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
)

const name = "file"

// provider wraps with the master key in one file.
type provider struct {
	kek.Provider
	path string
}

// New reads the master key at path once, to check it and to learn its fingerprint. Errors are *keyfile.Error.
func New(path string) (kek.Provider, error) {
	p, err := local.New(context.Background(), name, func(context.Context) (*secret.Key, error) { return keyfile.Read(path) })
	if err != nil {
		return nil, err
	}
	return &provider{p, path}, nil
}

// Generate makes a random W and seals it for the binding. The key file is made durable before it is used: whoever made it may not have seen to that, and a
// power cut must not leave volumes without their key.
func (p *provider) Generate(ctx context.Context, b kek.Binding) (w *secret.Key, wrap []byte, ref kek.Ref, err error) {
	w, wrap, ref, err = p.Provider.Generate(ctx, b)
	if err != nil {
		return nil, nil, kek.Ref{}, err
	}
	if err := sys.SyncFile(p.path); err != nil {
		w.Wipe()
		return nil, nil, kek.Ref{}, &keyfile.Error{Path: p.path, Err: fmt.Errorf("cannot be made durable: %w", err)}
	}
	return w, wrap, ref, nil
}

// Generate makes a new master key at path, as keyfile.Generate does, and returns its name.
func Generate(path string) (kek.Ref, error) {
	master, err := keyfile.Generate(path)
	if err != nil {
		return kek.Ref{}, err
	}
	defer master.Wipe()
	return local.Ref(name, master)
}
