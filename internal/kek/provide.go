// SPDX-License-Identifier: Apache-2.0

package kek

import (
	"fmt"
	"strings"

	"github.com/voluks/voluks/internal/secret"
)

// Table is the dotted name of a provider's settings in the configuration: "kek.vault".
type Table string

// Bad is a *ConfigError about one of the settings, or about all of them together if setting is "" or ".".
func (t Table) Bad(setting, format string, args ...any) error {
	if setting = strings.TrimPrefix(setting, "."); setting != "" {
		setting = "." + setting
	}
	return &ConfigError{Setting: string(t) + setting, Err: fmt.Errorf(format, args...)}
}

// Key moves the W that a keeper has unwrapped into locked memory and clears plaintext. Of another length than W has, it is an ErrWrongKey that names
// the setting that says who the keeper is.
func (t Table) Key(setting string, plaintext []byte) (*secret.Key, error) {
	if n := len(plaintext); n != KeySize {
		clear(plaintext)
		return nil, fmt.Errorf("%w: %w", ErrWrongKey, t.Bad(setting, "what it unwrapped has %d bytes instead of %d", n, KeySize))
	}
	return secret.Move(plaintext)
}

// Cause is one thing that can be wrong with a keeper, and how to tell it by what the keeper says.
type Cause struct {
	Said    string // any of these words, which "|" parts, in lower case
	Setting string // that is to blame, "." for all of them together, or "" for none
	Kind    error  // of this package, or nil
	Means   string // to a person
}

// Explain is the error that the first of the causes makes of err, in the text of which a keeper says what is wrong. It is nil if none fits.
func (t Table) Explain(err error, causes []Cause) error {
	said := strings.ToLower(err.Error())
	for _, cause := range causes {
		for words := range strings.SplitSeq(cause.Said, "|") {
			if !strings.Contains(said, words) {
				continue
			}
			err = fmt.Errorf("%s (%w)", cause.Means, err)
			if cause.Setting != "" {
				err = t.Bad(cause.Setting, "%w", err)
			}
			if cause.Kind != nil {
				err = fmt.Errorf("%w: %w", cause.Kind, err)
			}
			return err
		}
	}
	return nil
}

// Make is the Generate of a provider whose keeper makes no keys: W is random, and wrap, which borrows it, has it wrapped.
func Make(b Binding, wrap func(w *secret.Key) ([]byte, Ref, error)) (w *secret.Key, wrapped []byte, ref Ref, err error) {
	if err := b.Validate(); err != nil {
		return nil, nil, Ref{}, err
	}
	w, err = secret.Random(KeySize)
	if err != nil {
		return nil, nil, Ref{}, err
	}
	if wrapped, ref, err = wrap(w); err != nil {
		w.Wipe()
		return nil, nil, Ref{}, err
	}
	return w, wrapped, ref, nil
}

// CanOpen refuses what the key, which a provider has, cannot have wrapped, before anybody is asked.
func (r Ref) CanOpen(b Binding, wrappedBy Ref, wrap []byte) error {
	if err := b.Validate(); err != nil {
		return err
	}
	if !wrappedBy.SameKey(r) {
		return &NotMineError{Want: wrappedBy, Have: r}
	}
	if len(wrap) == 0 || len(wrap) > MaxWrap {
		return fmt.Errorf("%w: a wrap of %d bytes (1 to %d)", ErrWrongKey, len(wrap), MaxWrap)
	}
	return nil
}
