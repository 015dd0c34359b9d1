// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/luks/header"
)

// Slots is what a header says about its key slots.
type Slots struct {
	// Slots are all occupied slots, managed ones first, then by number from 31 downwards.
	Slots []Slot
	// Volume is the token of the volume as a whole; nil until its file system exists.
	Volume *VolumeToken
	// Pending is a rotation that has not ended; nil if there is none. See Recover.
	Pending *PendingToken

	agent    []AgentToken
	recovery []RecoveryToken
	tokens   map[string]int // numbers of the tokens, by tokenKey
	spent    []int          // numbers of tokens whose slot was destroyed by a rotation that died then
}

// Slot is one occupied key slot. It holds nothing secret.
type Slot struct {
	Number int // 0 to 31
	// Managed says that voluks made it; Role and what follows up to Recipients is set only then.
	Managed    bool
	Role       string    // of its token
	Generation uint64    // of its key
	Created    time.Time // when its key was made
	KEK        kek.Ref   // of the agent slot: what wraps W
	History    []kek.Ref // of the agent slot: what ever wrapped W
	Former     []kek.Ref // of the agent slot: what wrapped earlier slot keys of the volume
	Recipients []string  // of the recovery slot: fingerprints
	// Kind says what a slot of others is: the type of the token that names it, such as "systemd-tpm2"
	// or "clevis", "passphrase" without a token, or KindUnclaimed.
	Kind string
}

// KindUnclaimed is a slot without a token that looks like one of ours: left by a crash, or made by
// hand with the same parameters. It may be somebody's.
const KindUnclaimed = "unclaimed"

// KindPending is the new slot of a rotation that has not ended.
const KindPending = "pending"

// Managed says whether voluks made any of the slots.
func (s *Slots) Managed() bool {
	return slices.ContainsFunc(s.Slots, func(s Slot) bool { return s.Managed })
}

// Managed says whether the header has any token of voluks, whether or not it can be understood. Such a
// container may hold data, and is never formatted.
func Managed(h *header.Header) bool {
	for _, token := range h.Tokens {
		if strings.HasPrefix(token.Type, Prefix) {
			return true
		}
	}
	return false
}

// State decodes the tokens of a header. It asks nobody and opens nothing.
//
// With an error the Slots are what could be understood, so that one bad token does not hide a slot
// that opens: for looking and opening. Nothing may be changed then. The error joins, per token, a
// *VersionError, a *ForeignTokenError or a *TokenError.
func State(h *header.Header) (Slots, error) {
	s := Slots{tokens: map[string]int{}}
	var errs []error
	managed := map[int]Slot{}
	for _, id := range slices.Sorted(maps.Keys(h.Tokens)) {
		token := h.Tokens[id]
		if !strings.HasPrefix(token.Type, Prefix) {
			continue
		}
		if err := s.add(h, id, token, managed); err != nil {
			errs = append(errs, err)
		}
	}
	for number, slot := range h.Keyslots {
		if known, ok := managed[number]; ok {
			s.Slots = append(s.Slots, known)
		} else if s.Pending.made(number, slot) && !named(h, number) {
			s.Slots = append(s.Slots, Slot{Number: number, Kind: KindPending})
		} else {
			s.Slots = append(s.Slots, Slot{Number: number, Kind: kindOf(h, number, slot)})
		}
	}
	slices.SortFunc(s.Slots, func(a, b Slot) int {
		if a.Managed != b.Managed {
			if a.Managed {
				return -1
			}
			return 1
		}
		return b.Number - a.Number
	})
	slices.SortFunc(s.agent, func(a, b AgentToken) int { return cmp.Compare(b.Generation, a.Generation) })
	slices.SortFunc(s.recovery, func(a, b RecoveryToken) int { return cmp.Compare(b.Generation, a.Generation) })
	return s, errors.Join(errs...)
}

// add takes in one token of ours.
func (s *Slots) add(h *header.Header, id int, token header.Token, managed map[int]Slot) error {
	bad := func(err error) error { return &TokenError{ID: id, Type: token.Type, Err: err} }
	if spent(token, h.UUID) {
		s.spent = append(s.spent, id)
		return nil
	}
	decoded, err := decode(token.JSON)
	if v := errVersion(""); errors.As(err, &v) {
		return &VersionError{ID: id, Type: token.Type, Version: string(v)}
	}
	if err != nil {
		return bad(err)
	}
	var slot Slot
	var uuid string
	switch t := decoded.(type) {
	case AgentToken:
		uuid, slot = t.UUID, Slot{Number: t.Slot, Managed: true, Role: RoleAgent, Generation: t.Generation, Created: t.Created, KEK: t.KEK, History: t.History, Former: t.Former}
	case RecoveryToken:
		uuid, slot = t.UUID, Slot{Number: t.Slot, Managed: true, Role: RoleRecovery, Generation: t.Generation, Created: t.Created, Recipients: t.Recipients}
	case VolumeToken:
		uuid, slot.Number = t.UUID, -1
	case PendingToken:
		uuid, slot.Number = t.UUID, -1
	}
	if uuid != h.UUID {
		return &ForeignTokenError{ID: id, Type: token.Type, UUID: uuid, Header: h.UUID}
	}
	if v, ok := decoded.(VolumeToken); ok {
		if s.Volume != nil {
			return bad(errors.New("is there twice"))
		}
		s.Volume, s.tokens[tokenKey(TypeVolume, -1)] = &v, id
		return nil
	}
	if p, ok := decoded.(PendingToken); ok {
		if s.Pending != nil {
			return bad(errors.New("is there twice"))
		}
		s.Pending, s.tokens[tokenKey(TypePending, -1)] = &p, id
		return nil
	}
	if _, exists := h.Keyslots[slot.Number]; !exists {
		return bad(fmt.Errorf("names key slot %d, which is empty", slot.Number))
	}
	if _, twice := managed[slot.Number]; twice {
		return bad(fmt.Errorf("names key slot %d, as another token does", slot.Number))
	}
	managed[slot.Number], s.tokens[tokenKey(token.Type, slot.Number)] = slot, id
	switch t := decoded.(type) {
	case AgentToken:
		s.agent = append(s.agent, t)
	case RecoveryToken:
		s.recovery = append(s.recovery, t)
	}
	return nil
}

// spent says whether a token is one whose slot is gone: libcryptsetup takes the number of a slot that it
// destroys out of the tokens that name it. Nothing else makes one of ours without a slot.
func spent(token header.Token, uuid string) bool {
	if token.Type != TypeAgent && token.Type != TypeRecovery || len(token.Keyslots) != 0 {
		return false
	}
	var t commonJSON
	return json.Unmarshal(token.JSON, &t) == nil && t.V == version && t.UUID == uuid
}

// made says whether a slot can be the one that the rotation was about to make: it has its number, and
// was not there before.
func (t *PendingToken) made(number int, slot header.Keyslot) bool {
	return t != nil && t.Slot() == number && !slices.ContainsFunc(t.Salts, func(s []byte) bool { return bytes.Equal(s, slot.KDF.Salt) })
}

// named says whether any token names a slot.
func named(h *header.Header, number int, but ...int) bool {
	for id, token := range h.Tokens {
		if slices.Contains(token.Keyslots, number) && !slices.Contains(but, id) {
			return true
		}
	}
	return false
}

func tokenKey(kind string, slot int) string { return fmt.Sprintf("%s %d", kind, slot) }

// Generation is the highest generation that the header knows of: of its slots, and of those that the
// volume once had. It grows with each rotation, so that an older header is known by it.
func (s *Slots) Generation() uint64 {
	g := s.highest()
	if s.Volume != nil {
		g = max(g, s.Volume.HighestGeneration)
	}
	return g
}

// highest is the highest generation of any managed slot.
func (s *Slots) highest() uint64 {
	var g uint64
	for _, slot := range s.Slots {
		g = max(g, slot.Generation)
	}
	return g
}

// kindOf says what a slot is that no token of ours names.
func kindOf(h *header.Header, number int, slot header.Keyslot) string {
	for _, id := range slices.Sorted(maps.Keys(h.Tokens)) {
		token := h.Tokens[id]
		if slices.Contains(token.Keyslots, number) {
			return token.Type
		}
	}
	if ourProfile(slot) {
		return KindUnclaimed
	}
	return "passphrase"
}

// randomKeyIterations is what luks.KDFRandomKey costs.
const randomKeyIterations = 1000

// ourProfile says whether a slot has exactly the parameters of those that voluks makes. A slot that
// somebody else made may have them too.
func ourProfile(slot header.Keyslot) bool {
	kdf := slot.KDF
	kdf.Salt = nil
	return kdf.Type == "pbkdf2" && kdf.Hash == "sha256" && kdf.Iterations == randomKeyIterations &&
		slot.Type == "luks2" && slot.KeySize == header.DefaultKeyBytes &&
		slot.AF == header.AF{Type: "luks1", Stripes: 4000, Hash: "sha256"} &&
		slot.Area.Type == "raw" && slot.Area.Encryption == header.DefaultCipher && slot.Area.KeySize == header.DefaultKeyBytes
}

// freeSlot is the highest slot that is not taken, by the header or by taken.
func freeSlot(h *header.Header, taken ...int) (int, error) {
	for n := topSlot; n >= 0; n-- {
		if _, occupied := h.Keyslots[n]; !occupied && !slices.Contains(taken, n) {
			return n, nil
		}
	}
	return 0, ErrNoSlot
}

// room checks that what is to be written fits beside what the header has. Replaced tokens, by number,
// do not count: they make room. A negative number is no token.
func room(h *header.Header, replaced int, added ...[]byte) error {
	size := 0
	for id, token := range h.Tokens {
		if id != replaced {
			size += len(token.JSON)
		}
	}
	for _, token := range added {
		size += len(token)
	}
	if size > MaxTokens {
		return &TooLargeError{Size: size, Limit: MaxTokens}
	}
	return nil
}
