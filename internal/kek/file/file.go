// SPDX-License-Identifier: Apache-2.0

// Package file is the key provider whose key is a file of 32 random bytes on this node.
//
// From the master key M follow, by HKDF-SHA256, a public fingerprint and one wrapping key per volume
// and role; W is sealed with it by AES-256-GCM. M is read from the file for each operation and wiped
// after it, so that a running agent does not hold it.
package file

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/secret"
)

const (
	name = "file"

	// Names of what is derived from M. They are part of the format: volumes depend on them.
	infoID   = "voluks kek file v1 id"
	infoWrap = "voluks kek file v1 wrap "

	// A wrap is a version, then nonce, ciphertext and tag of GCM.
	wrapVersion = 1
	wrapSize    = 1 + 12 + kek.KeySize + 16
)

// Provider wraps with the master key in one file.
type Provider struct {
	path string
	ref  kek.Ref
}

// New reads the master key at path once, to check it and to learn its fingerprint. Errors are
// *KeyFileError.
func New(path string) (kek.Provider, error) {
	master, err := read(path)
	if err != nil {
		return nil, err
	}
	defer master.Wipe()
	ref, err := refOf(master)
	if err != nil {
		return nil, err
	}
	return &Provider{path: path, ref: ref}, nil
}

// Ref names the key that the file had when the provider was made.
func (p *Provider) Ref() kek.Ref { return p.ref }

// Generate makes a random W and seals it for the binding.
func (p *Provider) Generate(ctx context.Context, b kek.Binding) (w *secret.Key, wrap []byte, ref kek.Ref, err error) {
	aead, ref, err := p.open(ctx, b)
	if err != nil {
		return nil, nil, kek.Ref{}, err
	}
	w, err = secret.Random(kek.KeySize)
	if err != nil {
		return nil, nil, kek.Ref{}, err
	}
	return w, aead.Seal([]byte{wrapVersion}, nil, w.Bytes(), b.Bytes()), ref, nil
}

// Unwrap opens what Generate has sealed. If the file holds another key by now than the one that ref
// names, the error is a *kek.NotMineError with both fingerprints.
func (p *Provider) Unwrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) (*secret.Key, error) {
	if ref.Provider != name {
		return nil, &kek.NotMineError{Want: ref, Have: p.ref}
	}
	aead, have, err := p.open(ctx, b)
	if err != nil {
		return nil, err
	}
	switch {
	case !ref.SameKey(have):
		return nil, &kek.NotMineError{Want: ref, Have: have}
	case len(wrap) != wrapSize:
		return nil, fmt.Errorf("%d bytes instead of %d: %w", len(wrap), wrapSize, kek.ErrWrongKey)
	case wrap[0] != wrapVersion:
		return nil, fmt.Errorf("format %d instead of %d: %w", wrap[0], wrapVersion, kek.ErrWrongKey)
	}
	w, err := secret.New(kek.KeySize)
	if err != nil {
		return nil, err
	}
	if _, err := aead.Open(w.Bytes()[:0], nil, wrap[1:], b.Bytes()); err != nil {
		w.Wipe()
		return nil, kek.ErrWrongKey // what GCM says is no more than that
	}
	return w, nil
}

// open reads the master key and returns the cipher for the binding, and whose key it is. The derived
// key and the cipher's schedule pass through memory that cannot be wiped; the processes that do this
// end after one operation.
func (p *Provider) open(ctx context.Context, b kek.Binding) (cipher.AEAD, kek.Ref, error) {
	if err := ctx.Err(); err != nil {
		return nil, kek.Ref{}, err
	}
	if err := b.Validate(); err != nil {
		return nil, kek.Ref{}, err
	}
	master, err := read(p.path)
	if err != nil {
		return nil, kek.Ref{}, err
	}
	defer master.Wipe()
	ref, err := refOf(master)
	if err != nil {
		return nil, kek.Ref{}, err
	}
	key, err := hkdf.Key(sha256.New, master.Bytes(), nil, infoWrap+string(b.Bytes()), kek.KeySize)
	if err != nil {
		return nil, kek.Ref{}, fmt.Errorf("derive a wrapping key: %w", err)
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, kek.Ref{}, fmt.Errorf("make a cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, kek.Ref{}, fmt.Errorf("make a cipher: %w", err)
	}
	return aead, ref, nil
}

// refOf is the public name of a master key: a hash of something derived from it, so that it says
// nothing about the keys that wrap.
func refOf(master *secret.Key) (kek.Ref, error) {
	derived, err := hkdf.Key(sha256.New, master.Bytes(), nil, infoID, sha256.Size)
	if err != nil {
		return kek.Ref{}, fmt.Errorf("derive a key's fingerprint: %w", err)
	}
	sum := sha256.Sum256(derived)
	return kek.Ref{Provider: name, ID: hex.EncodeToString(sum[:8])}, nil
}
