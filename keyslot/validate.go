// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/luks/header"
)

// Bounds of what a token holds. They are wide; what matters is that there are some, since anybody
// who has the disk can write a header.
const (
	maxText    = 512
	maxHistory = 64
	maxFormer  = 32 // the oldest are forgotten: a header is small, and rotated keys rarely change their keeper
	maxOptions = 32
	armorBegin = "-----BEGIN AGE ENCRYPTED FILE-----\n"
	armorEnd   = "-----END AGE ENCRYPTED FILE-----\n"
)

func (t AgentToken) validate() error {
	if err := validateSlot(t.Slot, t.UUID, t.Generation, t.Created); err != nil {
		return err
	}
	if err := t.KEK.Validate(); err != nil {
		return err
	}
	switch {
	case len(t.Wrap) == 0 || len(t.Wrap) > kek.MaxWrap:
		return fmt.Errorf("wrapped key of %d bytes", len(t.Wrap))
	case len(t.Sealed) != sealedSize:
		return fmt.Errorf("sealed key of %d bytes instead of %d", len(t.Sealed), sealedSize)
	case len(t.History) > maxHistory:
		return fmt.Errorf("%d keys in its history", len(t.History))
	case !slices.ContainsFunc(t.History, t.KEK.SameKey):
		return errors.New("its key is not in its history")
	case len(t.Former) > maxFormer:
		return fmt.Errorf("%d former keys", len(t.Former))
	}
	all := slices.Concat(t.History, t.Former)
	for i, ref := range all {
		if err := ref.Validate(); err != nil {
			return err
		}
		if ref.Version != "" || slices.ContainsFunc(all[:i], ref.SameKey) {
			return errors.New("history with versions or repetitions")
		}
	}
	return nil
}

func (t RecoveryToken) validate() error {
	if err := validateSlot(t.Slot, t.UUID, t.Generation, t.Created); err != nil {
		return err
	}
	if len(t.Recipients) == 0 || len(t.Recipients) > maxHistory {
		return fmt.Errorf("%d recipients", len(t.Recipients))
	}
	for _, fingerprint := range t.Recipients {
		if !plain(fingerprint) || fingerprint == "" {
			return errors.New("unprintable fingerprint of a recipient")
		}
	}
	if !strings.HasPrefix(t.Age, armorBegin) || !strings.HasSuffix(t.Age, armorEnd) {
		return errors.New("age is not an armored age file")
	}
	for line := range strings.Lines(t.Age) {
		if !plain(strings.TrimSuffix(line, "\n")) {
			return errors.New("age is not an armored age file")
		}
	}
	return nil
}

func (t VolumeToken) validate() error {
	if err := validateUUID(t.UUID); err != nil {
		return err
	}
	for _, text := range []string{t.Name, t.FS, t.FSUUID} {
		if !plain(text) || text == "" {
			return errors.New("name, file system or its UUID is empty, too long or unprintable")
		}
	}
	if len(t.Options) > maxOptions {
		return fmt.Errorf("%d options", len(t.Options))
	}
	for name, value := range t.Options {
		if !plain(name) || name == "" || !plain(value) {
			return errors.New("an option is empty, too long or unprintable")
		}
	}
	return validateGeneration(t.HighestGeneration)
}

func validateSlot(slot int, uuid string, generation uint64, created time.Time) error {
	if slot < 0 || slot >= header.MaxKeyslots {
		return fmt.Errorf("key slot %d", slot)
	}
	if year := created.UTC().Year(); year < 2020 || year > 9999 || created.Nanosecond() != 0 {
		return errors.New("time of creation is not usable")
	}
	return cmp.Or(validateUUID(uuid), validateGeneration(generation))
}

// validateGeneration keeps within what every JSON reader holds exactly.
func validateGeneration(g uint64) error {
	if g == 0 || g > 1<<53 {
		return fmt.Errorf("generation %d", g)
	}
	return nil
}

// validateUUID wants the one form that LUKS2 headers have: lower case, with dashes.
func validateUUID(s string) error {
	const form = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
	ok := len(s) == len(form)
	for i := 0; ok && i < len(form); i++ {
		if form[i] == '-' {
			ok = s[i] == '-'
		} else {
			ok = strings.IndexByte("0123456789abcdef", s[i]) >= 0
		}
	}
	if !ok {
		return errors.New("UUID is not one")
	}
	return nil
}

// plain is printable text of bounded length.
func plain(s string) bool {
	return len(s) <= maxText && utf8.ValidString(s) && strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == utf8.RuneError }) < 0
}
