// SPDX-License-Identifier: Apache-2.0

package kek_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/secret"
)

var binding = kek.Binding{VolumeUUID: "6f2a1c1e-7d1e-4b7e-8a55-52f0a4d1c0de", Role: "agent"}

// made is a wrap by the active provider of the set.
func made(t *testing.T, set *kek.Set) (kek.Ref, []byte) {
	t.Helper()
	w, wrap, ref, err := set.Generate(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	w.Wipe()
	return ref, wrap
}

// The window of a KEK change: what the previous key wrapped still opens, what is new is wrapped by
// the active one.
func TestPrevious(t *testing.T) {
	old, now := kektest.NewMemory("old"), kektest.NewMemory("now")
	oldRef, oldWrap := made(t, old.Set())
	set := &kek.Set{Active: now.New(), Previous: []kek.Provider{kektest.NewMemory("older").New(), old.New()}}
	if ref, _ := made(t, set); ref.ID != "now" {
		t.Errorf("wrapped by %v", ref)
	}
	w, err := set.Unwrap(t.Context(), binding, oldRef, oldWrap)
	if err != nil {
		t.Fatal(err)
	}
	w.Wipe()
	// A provider that is down does not keep another one from unwrapping.
	now.Fail(kek.ErrUnavailable)
	if w, err = set.Unwrap(t.Context(), binding, oldRef, oldWrap); err != nil {
		t.Fatal(err)
	}
	w.Wipe()
	// The one that has the key decides.
	old.Fail(kek.ErrDisabled)
	if _, err := set.Unwrap(t.Context(), binding, oldRef, oldWrap); !errors.Is(err, kek.ErrDisabled) || errors.Is(err, kek.ErrNotMine) {
		t.Errorf("got %v, want %v", err, kek.ErrDisabled)
	}
}

// F39: nobody has the key: the error names the one that is wanted and those that are here, and why
// some of them are not known.
func TestNobodyHasIt(t *testing.T) {
	ref, wrap := made(t, kektest.NewMemory("gone").Set())
	broken := &kek.ConfigError{Setting: "previous[0].file.path", Err: errors.New("key file /x does not exist")}
	set := &kek.Set{Active: kektest.NewMemory("here").New(), Previous: []kek.Provider{
		&kek.Broken{Name: "memory", Err: broken}, &kek.Broken{Name: "file", Err: errors.New("unrelated")},
	}}
	_, err := set.Unwrap(t.Context(), binding, ref, wrap)
	var none *kek.NoProviderError
	if !errors.As(err, &none) || none.Want != ref || len(none.Have) != 3 || !errors.Is(err, kek.ErrNotMine) {
		t.Fatalf("got %v", err)
	}
	if !errors.Is(err, broken) {
		t.Errorf("%v does not say why one is not known", err)
	}
	for _, want := range []string{"gone", "here", "previous[0].file.path: key file /x does not exist"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not name %q", err, want)
		}
	}
	if strings.Contains(err.Error(), "unrelated") {
		t.Errorf("%v tells of a provider that cannot have been it", err)
	}
}

// F28: no provider, no key.
func TestBrokenActive(t *testing.T) {
	reason := &kek.ConfigError{Setting: "kek.file.path", Err: errors.New("bad")}
	set := &kek.Set{Active: &kek.Broken{Name: "file", Err: reason}}
	w, wrap, _, err := set.Generate(t.Context(), binding)
	if w != nil || wrap != nil || !errors.Is(err, reason) {
		t.Errorf("got %v, %v, %v", w, wrap, err)
	}
}

// rogue returns what it is told to.
type rogue struct {
	kek.Provider
	key  int
	wrap int
	ref  kek.Ref
	wait bool
}

func (r rogue) Generate(ctx context.Context, _ kek.Binding) (*secret.Key, []byte, kek.Ref, error) {
	if r.wait {
		<-ctx.Done()
		return nil, nil, kek.Ref{}, ctx.Err()
	}
	w, err := secret.New(r.key)
	return w, make([]byte, r.wrap), r.ref, err
}

func (r rogue) Unwrap(ctx context.Context, _ kek.Binding, _ kek.Ref, _ []byte) (*secret.Key, error) {
	return secret.New(r.key)
}

// What a provider returns is checked once, for all who use it.
func TestRogueProviders(t *testing.T) {
	good := kektest.NewMemory("x").New()
	for name, p := range map[string]rogue{
		"31 bytes":    {good, 31, 60, good.Ref(), false},
		"33 bytes":    {good, 33, 60, good.Ref(), false},
		"empty wrap":  {good, 32, 0, good.Ref(), false},
		"large wrap":  {good, 32, kek.MaxWrap + 1, good.Ref(), false},
		"no ref":      {good, 32, 60, kek.Ref{Provider: "memory"}, false},
		"control ref": {good, 32, 60, kek.Ref{Provider: "memory", ID: "a\nb"}, false},
		"long ref":    {good, 32, 60, kek.Ref{Provider: "memory", ID: strings.Repeat("x", 600)}, false},
		"bad utf-8":   {good, 32, 60, kek.Ref{Provider: "memory", ID: "\xff"}, false},
	} {
		set := &kek.Set{Active: p}
		if w, wrap, ref, err := set.Generate(t.Context(), binding); err == nil || w != nil || wrap != nil || ref != (kek.Ref{}) {
			t.Errorf("%s: got %v, %d bytes, %v, %v", name, w, len(wrap), ref, err)
		}
		if w, err := set.Unwrap(t.Context(), binding, good.Ref(), nil); (err == nil) != (p.key == 32) {
			t.Errorf("%s: unwrap: %v, %v", name, w, err)
		}
	}
}

// F40: a provider that does not answer in time is one that may answer later.
func TestDeadline(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 1)
	defer cancel()
	set := &kek.Set{Active: rogue{Provider: kektest.NewMemory("x").New(), wait: true}}
	_, _, _, err := set.Generate(ctx, binding)
	if !errors.Is(err, kek.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, _, _, err := set.Generate(stopped, binding); errors.Is(err, kek.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}

func TestBindingBytesAreDistinct(t *testing.T) {
	seen := map[string]kek.Binding{}
	for _, b := range []kek.Binding{{"ab", "c"}, {"a", "bc"}, {"abc", ""}, {"", "abc"}, {"", ""}} {
		if other, twice := seen[string(b.Bytes())]; twice {
			t.Errorf("%+v and %+v are the same", b, other)
		}
		seen[string(b.Bytes())] = b
	}
}
