// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"fmt"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/secret"
)

// A sealed slot key is nonce, ciphertext and tag of AES-256-GCM under W. W seals one slot key of the
// agent in its life, and for the moments of a rotation of the recovery slot that one's, each time under
// a random nonce.
const sealedSize = 12 + KeySize + 16

// associated is what a sealed slot key is bound to: a token that is moved to another header, renamed
// or given another generation does not open. The JSON has this one form.
func associated(uuid, role string, generation uint64) ([]byte, error) {
	return json.Marshal(struct {
		UUID       string `json:"uuid"`
		Role       string `json:"role"`
		Generation uint64 `json:"generation"`
	}{uuid, role, generation})
}

func seal(w, key *secret.Key, uuid, role string, generation uint64) ([]byte, error) {
	if key.Len() != KeySize {
		return nil, fmt.Errorf("seal a slot key of %d bytes: %w", key.Len(), secret.ErrLength)
	}
	aead, ad, err := sealer(w, uuid, role, generation)
	if err != nil {
		return nil, fmt.Errorf("seal a slot key: %w", err)
	}
	return aead.Seal(nil, nil, key.Bytes(), ad), nil
}

// unseal returns the slot key, which the caller wipes. The error is ErrWrongKey.
func unseal(w *secret.Key, sealed []byte, uuid, role string, generation uint64) (*secret.Key, error) {
	aead, ad, err := sealer(w, uuid, role, generation)
	if err != nil {
		return nil, fmt.Errorf("open a sealed slot key: %w", err)
	}
	if len(sealed) != sealedSize {
		return nil, ErrWrongKey
	}
	key, err := secret.New(KeySize)
	if err != nil {
		return nil, err
	}
	if _, err := aead.Open(key.Bytes()[:0], nil, sealed, ad); err != nil {
		key.Wipe()
		return nil, ErrWrongKey
	}
	return key, nil
}

func sealer(w *secret.Key, uuid, role string, generation uint64) (cipher.AEAD, []byte, error) {
	if w.Len() != kek.KeySize {
		return nil, nil, fmt.Errorf("key-encryption key of %d bytes: %w", w.Len(), secret.ErrLength)
	}
	ad, err := associated(uuid, role, generation)
	if err != nil {
		return nil, nil, err
	}
	block, err := aes.NewCipher(w.Bytes())
	if err != nil {
		return nil, nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return aead, ad, err
}
