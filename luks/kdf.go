// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"fmt"
	"syscall"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/luks/header"
	"github.com/voluks/voluks/luks/internal/cryptsetup"
)

// KDF is how much work it takes to try one key on a slot.
type KDF int

const (
	// KDFRandomKey is PBKDF2-SHA256 with 1,000 iterations, for keys of at least 32 random bytes. Nobody can guess those, whatever one guess costs, so
	// nothing is lost against the 2 s and 1 GiB that Argon2id would take, and an unlock costs milliseconds.
	KDFRandomKey KDF = iota
	// KDFPassphrase is Argon2id with libcryptsetup's defaults, measured on this machine: for what a person types.
	KDFPassphrase
)

const (
	minRandomKey     = 32 // bytes
	randomIterations = 1000
)

func (k KDF) params() cryptsetup.PBKDF {
	if k == KDFPassphrase {
		return cryptsetup.PBKDF{Type: "argon2id"}
	}
	return cryptsetup.PBKDF{Type: "pbkdf2", Hash: "sha256", Iterations: randomIterations}
}

// check refuses keys that this derivation does not protect. An empty key is none (F34).
func (k KDF) check(key *secret.Key) error {
	if k != KDFRandomKey && k != KDFPassphrase {
		return fmt.Errorf("key derivation %d: %w", k, syscall.EINVAL)
	}
	least := 1
	if k == KDFRandomKey {
		least = minRandomKey
	}
	if n := length(key); n < least {
		return fmt.Errorf("%w: %d bytes, at least %d are needed", ErrKeyLength, n, least)
	}
	return nil
}

// made says whether a slot has the derivation that was asked for.
func (k KDF) made(slot header.Keyslot) bool {
	if k == KDFPassphrase {
		return slot.KDF.Type == "argon2id"
	}
	return slot.KDF.Type == "pbkdf2" && slot.KDF.Hash == "sha256" && slot.KDF.Iterations == randomIterations
}

func length(key *secret.Key) int {
	if key == nil {
		return 0
	}
	return key.Len()
}
