// SPDX-License-Identifier: Apache-2.0

// Package kek is the contract with the keepers of key-encryption keys.
//
// A provider guards W, 32 random bytes per key slot. It never sees a slot key: that one is sealed
// under W by package keyslot, with associated data of its own, so that nothing depends on what a
// provider can authenticate. What a provider returns as wrap is stored in the volume's header, where
// anybody who has the disk reads it and may change it.
package kek

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/voluks/voluks/internal/secret"
)

const (
	// KeySize is the length of W in bytes.
	KeySize = 32
	// MaxWrap bounds a wrapped W in bytes: it lives in the header, next to others.
	MaxWrap = 8 << 10
	// maxText bounds each text of a Ref, for the same reason.
	maxText = 512
)

// Binding is what W is for. A provider that can authenticate something authenticates both; one that
// cannot ignores them.
type Binding struct {
	VolumeUUID string // the LUKS UUID
	Role       string // of the slot: "agent"
}

// Bytes is the binding in a form in which no two bindings are equal, for use as associated data.
func (b Binding) Bytes() []byte {
	out := binary.BigEndian.AppendUint32(nil, uint32(len(b.VolumeUUID)))
	out = append(out, b.VolumeUUID...)
	out = binary.BigEndian.AppendUint32(out, uint32(len(b.Role)))
	return append(out, b.Role...)
}

// Validate refuses an incomplete binding. Providers call it first: a wrap bound to nothing would
// open everywhere.
func (b Binding) Validate() error {
	if b.VolumeUUID == "" || b.Role == "" {
		return errors.New("key binding without volume or role")
	}
	return nil
}

// Ref names a key of a provider. It is public: it stands in headers, lists and receipts.
type Ref struct {
	// Provider is the name of the provider, as in the configuration.
	Provider string `json:"provider"`
	// ID tells keys of that provider apart: a fingerprint, an ARN, a key name.
	ID string `json:"id"`
	// Version tells versions of that key apart where the provider has them.
	Version string `json:"version,omitempty"`
}

// String is the reference as errors and lists show it.
func (r Ref) String() string {
	s := r.Provider + " key " + r.ID
	if r.ID == "" {
		s = r.Provider + " (key unknown)"
	}
	if r.Version != "" {
		s += " version " + r.Version
	}
	return s
}

// SameKey says whether both name one key, in whatever version.
func (r Ref) SameKey(other Ref) bool { return r.Provider == other.Provider && r.ID == other.ID }

// Validate refuses a Ref that could not have come from a provider.
func (r Ref) Validate() error {
	if r.Provider == "" || r.ID == "" {
		return errors.New("key reference without provider or id")
	}
	for _, s := range []string{r.Provider, r.ID, r.Version} {
		if len(s) > maxText {
			return fmt.Errorf("key reference of %d bytes, at most %d", len(s), maxText)
		}
		for _, c := range s {
			if c < ' ' || c == 0x7f || c == 0xfffd {
				return errors.New("key reference with unprintable characters")
			}
		}
	}
	return nil
}

// Provider guards W with one key. Methods may be called concurrently and end with ctx. They keep
// nothing of what they are given or return: an unwrapped W lives in the returned Key alone, which is
// the caller's to wipe. Errors wrap one of the errors of this package.
type Provider interface {
	// Ref names the key that wraps now. It asks nobody: what is not known from the configuration is
	// learnt when the provider is made, and a version that the keeper alone knows is empty.
	Ref() Ref
	// Generate makes a new W and wraps it. ref is what Unwrap needs to be given.
	Generate(ctx context.Context, b Binding) (w *secret.Key, wrap []byte, ref Ref, err error)
	// Unwrap returns the W of a wrap that Generate has made for the same binding. An error that is
	// ErrNotMine means "try the next provider"; any other one is final for this volume now.
	Unwrap(ctx context.Context, b Binding, ref Ref, wrap []byte) (*secret.Key, error)
}

// Rewrapper is a Provider that can renew a wrap without showing W to this node, as the re-encryption
// of a key service does. The result wraps the same W under the key that wraps now. A volume that
// moves between providers without it gets a new W, under which its slot key is sealed again: that
// needs Generate alone, and leaves the old provider no wrap of anything in use. The same is to be done
// where the error is errors.ErrUnsupported, since some find out only when they ask.
type Rewrapper interface {
	Provider
	// Rewrap returns W's wrap under the key that wraps now, and where that one is. Errors are those of Unwrap.
	Rewrap(ctx context.Context, b Binding, ref Ref, wrap []byte) (newWrap []byte, newRef Ref, err error)
}
