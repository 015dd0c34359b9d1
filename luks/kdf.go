// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"fmt"
	"syscall"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/luks/header"
	"github.com/voluks/voluks/luks/internal/cryptsetup"
)

// KDF is how much work it takes to try one key on a slot. The zero value is none.
type KDF struct {
	Type string // "pbkdf2" or "argon2id"

	// Of PBKDF2.
	Hash       string
	Iterations int // of pbkdf2
	// Of Argon2id, all or none; without any they are measured on this machine.
	Time, Memory, CPUs int // passes, KiB, lanes

	minKey int // bytes
}

var (
	// KDFRandomKey is PBKDF2-SHA256 with 1,000 iterations, for keys of at least 32 random bytes. Nobody can guess those, whatever one guess costs, so
	// nothing is lost against the 2 s and 1 GiB that Argon2id would take, and an unlock costs milliseconds.
	KDFRandomKey = KDF{Type: "pbkdf2", Hash: "sha256", Iterations: randomIterations, minKey: minRandomKey}
	// KDFPassphrase is Argon2id with libcryptsetup's defaults, measured on this machine: for what a person types.
	KDFPassphrase = KDF{Type: "argon2id"}
)

const (
	minRandomKey     = 32 // bytes
	randomIterations = 1000
)

// The least that a new slot for a passphrase costs: four passes are libcryptsetup's minimum, 64 MiB the recommendation of RFC 9106 where memory is short.
const (
	minTime   = 4
	minMemory = 64 << 10 // KiB
)

// AtLeast is Argon2id that costs no less than another slot does, for a passphrase that replaces the one of that slot. What is less than today's minimum
// is raised to it. A slot with another derivation says nothing of costs that would compare: then it is KDFPassphrase.
func AtLeast(old header.KDF) KDF {
	if old.Type != "argon2id" && old.Type != "argon2i" {
		return KDFPassphrase
	}
	return KDF{Type: "argon2id", Time: max(old.Time, minTime), Memory: max(old.Memory, minMemory), CPUs: old.CPUs}
}

func (k KDF) params() cryptsetup.PBKDF {
	p := cryptsetup.PBKDF{Type: k.Type, Hash: k.Hash, Iterations: uint32(k.Iterations)}
	if k.Time > 0 {
		p.Iterations, p.Memory, p.Threads = uint32(k.Time), uint32(k.Memory), uint32(k.CPUs)
	}
	return p
}

// check refuses keys that this derivation does not protect. An empty key is none (F34).
func (k KDF) check(key *secret.Key) error {
	argon := k.Type == "argon2id" && (k.Time > 0 && k.Memory > 0 && k.CPUs > 0 || k.Time == 0 && k.Memory == 0 && k.CPUs == 0)
	if !argon && k != KDFRandomKey {
		return fmt.Errorf("key derivation %+v: %w", k, syscall.EINVAL)
	}
	if n, least := length(key), max(1, k.minKey); n < least {
		return fmt.Errorf("%w: %d bytes, at least %d are needed", ErrKeyLength, n, least)
	}
	return nil
}

// made says whether a slot has the derivation that was asked for. libcryptsetup lowers what the machine does not have: fewer lanes cost whoever guesses
// no less, but less memory does. F38
func (k KDF) made(slot header.Keyslot) bool {
	is := slot.KDF
	if k.Type == "argon2id" {
		return is.Type == k.Type && is.Time >= k.Time && is.Memory >= k.Memory
	}
	return is.Type == k.Type && is.Hash == k.Hash && is.Iterations == k.Iterations
}

func length(key *secret.Key) int {
	if key == nil {
		return 0
	}
	return key.Len()
}
