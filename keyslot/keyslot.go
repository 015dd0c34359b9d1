// SPDX-License-Identifier: Apache-2.0

// Package keyslot knows what the key slots of a volume are for. A volume that voluks made has two
// managed slots, each described by a token in the header:
//
//	agent     its slot key is sealed under W, which the key provider of the node wraps
//	recovery  its slot key is sealed to the recovery recipients, whose identity is not on the node
//
// Slots are found by the role in their token, never by a number that somebody remembers; whatever
// else is in the header belongs to others and is left alone. The order of writes, and what a crash
// after each of them leaves, stands with each operation.
package keyslot

import (
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/crashpoint"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/providers"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

const (
	// KeySize is the length of a slot key in bytes. All 256 bits are random, so that its slot needs no
	// costly key derivation: a guess costs 2^255 tries, whatever one try costs.
	KeySize = 32

	// RoleAgent is the slot that the node opens by itself.
	RoleAgent = "agent"
	// RoleRecovery is the slot that only the recovery identity opens.
	RoleRecovery = "recovery"

	topSlot = header.MaxKeyslots - 1
)

// Container is the LUKS2 container that slots are in, as *luks.Container is it. Its methods see the
// disk as it is when they are called.
type Container interface {
	// Header reads both copies of the header; see luks.Container.Header for its errors.
	Header() (*header.Header, error)
	// Format writes a new header with one slot over whatever is there.
	Format(p luks.FormatParams) error
	// AddSlot adds a slot with that number for key; auth opens an existing one. Both keys are borrowed.
	AddSlot(auth luks.Auth, slot int, key *secret.Key, kdf luks.KDF) error
	// KillSlot destroys the slot, its key material included: luks.ErrNoSlot if there is none.
	KillSlot(slot int) error
	// TestSlot returns nil if key, which is borrowed, opens the slot, and luks.ErrWrongKey if it does not.
	TestSlot(slot int, key *secret.Key) error
	// Witness is TestSlot by an implementation that is not libcryptsetup, on the header as the disk has it.
	Witness(slot int, key *secret.Key) error
	// SetToken writes the token with that id, or with the first free one if it is negative, and returns its id.
	SetToken(id int, json []byte) (int, error)
	// RemoveToken removes the token with that id.
	RemoveToken(id int) error
	// Syncer opens what makes later writes of the header durable. The caller closes it.
	Syncer() (*luks.Syncer, error)
}

// Keyring is what a node has to make and open slots with.
type Keyring struct {
	// KEK wraps and unwraps for the agent slot.
	KEK *kek.Set
	// Recipients are those whom the recovery slot is sealed to. They are confirmed: somebody has the
	// identity.
	Recipients []recovery.Recipient
	// NoRecovery is the deliberate choice of volumes without recovery slot. Without it and without
	// Recipients no volume is made.
	NoRecovery bool
	// Identities are recovery identities that somebody lends to this process for one operation. They open what KEK does not, or, without a KEK, everything.
	Identities []recovery.Identity
	// Now is the clock; nil is the system's.
	Now func() time.Time
	// Crash is called at each named point between two writes; nil is crashpoint.Hit.
	Crash func(point string)
}

// OpenKeyring makes the keyring of a configuration. Key providers that cannot be used show when they
// are needed (see providers.Open). Errors are *kek.ConfigError.
func OpenKeyring(cfg config.Config) (*Keyring, error) {
	k := &Keyring{KEK: providers.Open(cfg), NoRecovery: cfg.Recovery.None}
	recipients, err := recovery.ParseRecipients(cfg.Recovery.Recipients)
	if err != nil {
		return nil, &kek.ConfigError{Setting: "recovery.recipients", Err: err}
	}
	if cfg.Recovery.Confirmed {
		k.Recipients = recipients
	}
	return k, nil
}

// ready says whether volumes may be made.
func (k *Keyring) ready() error {
	if len(k.Recipients) == 0 && !k.NoRecovery {
		return ErrNoRecovery
	}
	return nil
}

// now is the time that stands in tokens: whole seconds, UTC.
func (k *Keyring) now() time.Time {
	now := time.Now
	if k.Now != nil {
		now = k.Now
	}
	return now().UTC().Truncate(time.Second)
}

// hit passes a named point. A nil keyring has one too.
func (k *Keyring) hit(point string) {
	if k == nil || k.Crash == nil {
		crashpoint.Hit(point)
		return
	}
	k.Crash(point)
}
