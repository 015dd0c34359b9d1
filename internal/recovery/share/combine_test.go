// SPDX-License-Identifier: Apache-2.0

package share

import (
	"errors"
	"strings"
	"testing"
)

func TestForeignSharesAreNamed(t *testing.T) {
	identity, _ := newIdentity(t, X25519)
	other, _ := newIdentity(t, X25519)
	ours := splitFor(t, identity, 3, 5)
	again := splitFor(t, identity, 3, 5)
	theirs := splitFor(t, other, 3, 5)
	for _, c := range []struct {
		name     string
		shares   []*Share
		position int // of the one that is named
		number   int
		says     string
	}{
		{"another identity", []*Share{ours[0], theirs[3], ours[2]}, 2, 4, "it is of identity " + theirs[0].Fingerprint.String()},
		{"another identity first", []*Share{theirs[3], ours[0], ours[2]}, 1, 4, "it is of identity " + theirs[0].Fingerprint.String()},
		{"another splitting", []*Share{ours[0], ours[1], again[2]}, 3, 3, "splitting " + again[0].Set()},
		{"more than enough and a foreign one", []*Share{ours[0], ours[1], ours[3], again[2]}, 4, 3, "splitting " + again[0].Set()},
	} {
		got, recipient, err := Combine(c.shares)
		var e *Error
		if !errors.As(err, &e) || !errors.Is(err, ErrForeign) || got != nil || recipient.String() != "" {
			t.Fatalf("%s: %v, %q, error %v", c.name, got, recipient, err)
		}
		if e.Position != c.position || e.Number != c.number || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: position %d, number %d: %v", c.name, e.Position, e.Number, err)
		}
	}
	if err := Check(ours[:2], theirs[2]); !errors.Is(err, ErrForeign) {
		t.Errorf("asked one by one: %v", err)
	}
	if err := Check(ours[:2], ours[4]); err != nil {
		t.Errorf("a share that fits: %v", err)
	}
	if err := Check(nil, ours[4]); err != nil {
		t.Errorf("the first share: %v", err)
	}
}

func TestRepeatedSharesAreNamed(t *testing.T) {
	identity, _ := newIdentity(t, X25519)
	s := splitFor(t, identity, 3, 5)
	same := parse(t, textOf(t, s[1]))
	got, _, err := Combine([]*Share{s[0], s[1], same})
	var e *Error
	if !errors.Is(err, ErrRepeated) || !errors.As(err, &e) || e.Number != 2 || e.Position != 3 || got != nil {
		t.Fatalf("error %v", err)
	}
	if err := Check(s[:2], same); !errors.Is(err, ErrRepeated) {
		t.Errorf("asked one by one: %v", err)
	}
	// All that is wrong is said at once.
	other, _ := newIdentity(t, X25519)
	_, _, err = Combine([]*Share{s[0], s[1], s[1], splitFor(t, other, 2, 2)[0]})
	if !errors.Is(err, ErrRepeated) || !errors.Is(err, ErrForeign) {
		t.Errorf("two problems: %v", err)
	}
}

// Someone who makes shares by his own hand, tree and all, that name our identity: they combine, but not to it.
func TestForgedSplittingIsNoIdentity(t *testing.T) {
	ours, _ := newIdentity(t, X25519)
	theirs, _ := newIdentity(t, X25519)
	fingerprint := splitFor(t, ours, 2, 3)[0].Fingerprint
	shares := splitFor(t, theirs, 2, 3)
	for _, s := range shares {
		s.Fingerprint, s.path = fingerprint, nil
	}
	plant(shares)
	var typed []*Share
	for _, s := range shares {
		typed = append(typed, parse(t, textOf(t, s)))
	}
	got, recipient, err := Combine(typed)
	if !errors.Is(err, ErrRecipient) || got != nil || recipient.String() != "" {
		t.Fatalf("%v, %q, error %v", got, recipient, err)
	}
}

// A value that was not handed out, under a root that was: what an owner with 2^50 hashes to spend could make. circl combines it without a word.
func TestForgedValueIsNoIdentity(t *testing.T) {
	identity, _ := newIdentity(t, X25519)
	for bit := range 253 {
		shares := splitFor(t, identity, 2, 3)
		shares[0].value.Bytes()[bit/8] ^= 1 << (bit % 8)
		got, _, err := Combine(shares[:2])
		if got != nil || !errors.Is(err, ErrRecipient) && !errors.Is(err, ErrForged) {
			t.Fatalf("bit %d: error %v", bit, err)
		}
	}
	if _, _, err := Combine(nil); err == nil {
		t.Error("no shares gave an identity")
	}
}
