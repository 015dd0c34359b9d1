// SPDX-License-Identifier: Apache-2.0

// Package local wraps with a master key that this node has in hand, for the key providers that differ only in where it comes from.
//
// From the master key M, 32 random bytes, follow by HKDF-SHA256 a public fingerprint and one wrapping key per volume and role; W is sealed with it
// by AES-256-GCM.
package local

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/secret"
)

// A wrap is a version, then nonce, ciphertext and tag of GCM.
const (
	wrapVersion = 1
	wrapSize    = 1 + 12 + kek.KeySize + 16
)

// info is what a key is derived for. The texts are part of the format: volumes depend on them.
func info(provider, purpose string) string { return "voluks kek " + provider + " v1 " + purpose }

// Ref is the public name of a master key: a hash of something derived from it, so that it says nothing about the keys that wrap.
func Ref(provider string, master *secret.Key) (kek.Ref, error) {
	derived, err := hkdf.Key(sha256.New, master.Bytes(), nil, info(provider, "id"), sha256.Size)
	if err != nil {
		return kek.Ref{}, fmt.Errorf("derive a key's fingerprint: %w", err)
	}
	sum := sha256.Sum256(derived)
	return kek.Ref{Provider: provider, ID: hex.EncodeToString(sum[:8])}, nil
}

// Generate makes a random W and seals it for the binding. The caller wipes w; the master key is borrowed.
func Generate(provider string, master *secret.Key, b kek.Binding) (w *secret.Key, wrap []byte, err error) {
	aead, err := wrapping(provider, master, b)
	if err != nil {
		return nil, nil, err
	}
	w, err = secret.Random(kek.KeySize)
	if err != nil {
		return nil, nil, err
	}
	return w, aead.Seal([]byte{wrapVersion}, nil, w.Bytes(), b.Bytes()), nil
}

// Unwrap opens what Generate has sealed. What does not open is kek.ErrWrongKey.
func Unwrap(provider string, master *secret.Key, b kek.Binding, wrap []byte) (*secret.Key, error) {
	switch {
	case len(wrap) != wrapSize:
		return nil, fmt.Errorf("%d bytes instead of %d: %w", len(wrap), wrapSize, kek.ErrWrongKey)
	case wrap[0] != wrapVersion:
		return nil, fmt.Errorf("format %d instead of %d: %w", wrap[0], wrapVersion, kek.ErrWrongKey)
	}
	aead, err := wrapping(provider, master, b)
	if err != nil {
		return nil, err
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

// wrapping is the cipher for a binding. The derived key and the cipher's schedule pass through memory that cannot be wiped; the processes that do
// this end after one operation.
func wrapping(provider string, master *secret.Key, b kek.Binding) (cipher.AEAD, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	key, err := hkdf.Key(sha256.New, master.Bytes(), nil, info(provider, "wrap ")+string(b.Bytes()), kek.KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive a wrapping key: %w", err)
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make a cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("make a cipher: %w", err)
	}
	return aead, nil
}
