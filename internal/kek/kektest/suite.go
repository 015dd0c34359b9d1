// SPDX-License-Identifier: Apache-2.0

// Package kektest is the conformance suite of key providers, and a provider in memory for tests of
// what uses them.
package kektest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/secret"
)

// Target is a provider to be tested. New and Other are needed; a function that is nil says that the
// provider cannot be in that state at all (a file has no server that is slow).
type Target struct {
	// New makes the provider. Each call is a restart: the key behind it is the same one.
	New func(t *testing.T) kek.Provider
	// Other makes a provider of the same kind with another key.
	Other func(t *testing.T) kek.Provider

	// Unbound says that the keeper of the key takes no associated data, so that the binding rests on
	// what package keyslot seals alone.
	Unbound bool
	// Slack says that the wrap is a text in which some changes mean nothing, as in base64. A changed
	// wrap may then open, to the same key.
	Slack bool
	// Stride is how many bytes apart the wrap is tampered with; 0 is each byte. For keepers that take
	// long to ask.
	Stride int

	// Down makes the provider with its keeper out of reach.
	Down func(t *testing.T) kek.Provider
	// Slow makes the provider with a keeper that never answers.
	Slow func(t *testing.T) kek.Provider
	// Denied makes the provider with a keeper that refuses this node.
	Denied func(t *testing.T) kek.Provider
	// Disabled makes the provider with a key that must not be used.
	Disabled func(t *testing.T) kek.Provider
	// Advance gives the key of New a new version, without taking the old one away. Needed if the
	// provider is a kek.Rewrapper.
	Advance func(t *testing.T)
}

var (
	binding      = kek.Binding{VolumeUUID: "0b41f68c-4a4c-4d5e-9a4e-0f1d2c3b4a59", Role: "agent"}
	otherVolume  = kek.Binding{VolumeUUID: "0b41f68c-4a4c-4d5e-9a4e-0f1d2c3b4a5a", Role: "agent"}
	otherRole    = kek.Binding{VolumeUUID: binding.VolumeUUID, Role: "recovery"}
	shiftedParts = kek.Binding{VolumeUUID: binding.VolumeUUID + "a", Role: "gent"}
)

// Run tests the provider against the contract of kek.Provider.
func Run(t *testing.T, target Target) {
	t.Run("Open", target.open)
	t.Run("Distinct", target.distinct)
	t.Run("Restart", target.restart)
	t.Run("Binding", target.binding)
	t.Run("NoBinding", target.noBinding)
	t.Run("NotMine", target.notMine)
	t.Run("WrongKey", target.wrongKey)
	t.Run("Tampered", target.tampered)
	t.Run("Cut", target.cut)
	t.Run("Arguments", target.arguments)
	t.Run("Cancelled", target.cancelled)
	t.Run("Concurrent", target.concurrent)
	t.Run("Wiped", target.wiped)
	t.Run("Rewrap", target.rewrap)
	t.Run("Down", target.fails(target.Down, kek.ErrUnavailable))
	t.Run("Denied", target.fails(target.Denied, kek.ErrDenied))
	t.Run("Disabled", target.fails(target.Disabled, kek.ErrDisabled))
	t.Run("Slow", target.slow)
}

// wrapped is a W with its wrap; the key is wiped when the test ends.
type wrapped struct {
	w    *secret.Key
	wrap []byte
	ref  kek.Ref
}

func generate(t *testing.T, p kek.Provider, b kek.Binding) wrapped {
	t.Helper()
	w, wrap, ref, err := p.Generate(t.Context(), b)
	if err != nil {
		t.Fatalf("generate: %v", err)
	}
	t.Cleanup(w.Wipe)
	return wrapped{w, wrap, ref}
}

func (want wrapped) opens(t *testing.T, p kek.Provider, b kek.Binding) {
	t.Helper()
	got, err := p.Unwrap(t.Context(), b, want.ref, want.wrap)
	if err != nil {
		t.Fatalf("unwrap: %v", err)
	}
	defer got.Wipe()
	if !got.Equal(want.w) {
		t.Fatal("unwrapped another key than was wrapped")
	}
}

// refused fails the test unless Unwrap gives an error that is want, and no key.
func refused(t *testing.T, what string, want error, p kek.Provider, b kek.Binding, ref kek.Ref, wrap []byte) {
	t.Helper()
	got, err := p.Unwrap(t.Context(), b, ref, wrap)
	if got != nil {
		got.Wipe()
		t.Errorf("%s: got a key (and error %v)", what, err)
	} else if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

func (target Target) open(t *testing.T) {
	p := target.New(t)
	x := generate(t, p, binding)
	if x.w.Len() != kek.KeySize || len(x.wrap) == 0 || len(x.wrap) > kek.MaxWrap {
		t.Errorf("key of %d bytes, wrap of %d", x.w.Len(), len(x.wrap))
	}
	if bytes.Contains(x.wrap, x.w.Bytes()) {
		t.Error("the wrap shows the key")
	}
	x.opens(t, p, binding)

	if err := x.ref.Validate(); err != nil {
		t.Error(err)
	}
	if !current(x.ref, p) {
		t.Errorf("wrapped by %v, Ref says %v", x.ref, p.Ref())
	}
	text, err := json.Marshal(x.ref)
	if err != nil {
		t.Fatal(err)
	}
	stored := wrapped{x.w, x.wrap, kek.Ref{}}
	if err := json.Unmarshal(text, &stored.ref); err != nil || stored.ref != x.ref {
		t.Fatalf("%v is stored as %s and read as %v, %v", x.ref, text, stored.ref, err)
	}
	stored.opens(t, p, binding)
}

// current says whether ref is what p wraps with now. Of a key whose version the keeper alone knows, Ref names none.
func current(ref kek.Ref, p kek.Provider) bool {
	now := p.Ref()
	return ref == now || now.Version == "" && ref.SameKey(now)
}

func (target Target) distinct(t *testing.T) {
	p := target.New(t)
	a, b := generate(t, p, binding), generate(t, p, binding)
	if a.w.Equal(b.w) || bytes.Equal(a.wrap, b.wrap) {
		t.Error("two generated keys or wraps are the same")
	}
	a.opens(t, p, binding)
	b.opens(t, p, binding)
}

func (target Target) restart(t *testing.T) {
	before, after := target.New(t), target.New(t)
	if before.Ref() != after.Ref() {
		t.Errorf("Ref changed from %v to %v", before.Ref(), after.Ref())
	}
	generate(t, before, binding).opens(t, after, binding)
}

func (target Target) binding(t *testing.T) {
	p := target.New(t)
	x := generate(t, p, binding)
	for what, b := range map[string]kek.Binding{"another volume": otherVolume, "another role": otherRole, "a shifted binding": shiftedParts} {
		if target.Unbound {
			if got, err := p.Unwrap(t.Context(), b, x.ref, x.wrap); err == nil {
				got.Wipe()
			} else if !errors.Is(err, kek.ErrWrongKey) {
				t.Errorf("for %s: %v", what, err)
			}
			continue
		}
		refused(t, "for "+what, kek.ErrWrongKey, p, b, x.ref, x.wrap)
	}
	x.opens(t, p, binding)
}

func (target Target) noBinding(t *testing.T) {
	p := target.New(t)
	x := generate(t, p, binding)
	for _, b := range []kek.Binding{{}, {VolumeUUID: binding.VolumeUUID}, {Role: binding.Role}} {
		if w, _, _, err := p.Generate(t.Context(), b); err == nil {
			w.Wipe()
			t.Errorf("made a key for %+v", b)
		}
		if w, err := p.Unwrap(t.Context(), b, x.ref, x.wrap); err == nil {
			w.Wipe()
			t.Errorf("opened for %+v", b)
		}
	}
}

func (target Target) notMine(t *testing.T) {
	p, other := target.New(t), target.Other(t)
	if p.Ref().SameKey(other.Ref()) {
		t.Fatalf("two keys are both called %v", p.Ref())
	}
	x := generate(t, p, binding)
	foreign, unknown := x.ref, x.ref
	foreign.Provider = "elsewhere"
	unknown.ID += "0"
	refused(t, "another provider's", kek.ErrNotMine, p, binding, foreign, x.wrap)
	refused(t, "an unknown key's", kek.ErrNotMine, p, binding, unknown, x.wrap)
	refused(t, "no key's", kek.ErrNotMine, p, binding, kek.Ref{}, x.wrap)
	refused(t, "the other key's", kek.ErrNotMine, other, binding, x.ref, x.wrap)
}

func (target Target) wrongKey(t *testing.T) {
	p, other := target.New(t), target.Other(t)
	x, y := generate(t, p, binding), generate(t, other, binding)
	refused(t, "a wrap by another key under this key's name", kek.ErrWrongKey, p, binding, x.ref, y.wrap)
	refused(t, "this key's wrap under another key's name", kek.ErrWrongKey, other, binding, y.ref, x.wrap)
}

func (target Target) tampered(t *testing.T) {
	p := target.New(t)
	x := generate(t, p, binding)
	for i := 0; i < len(x.wrap); i += max(1, target.Stride) {
		changed := bytes.Clone(x.wrap)
		changed[i] ^= 1
		target.mustNotOpen(t, fmt.Sprintf("byte %d changed", i), p, x, changed)
	}
}

func (target Target) cut(t *testing.T) {
	p := target.New(t)
	x := generate(t, p, binding)
	n := len(x.wrap)
	for _, cut := range []int{0, 1, n / 2, n - 16, n - 1} {
		if cut >= 0 && cut < n {
			target.mustNotOpen(t, fmt.Sprintf("cut to %d of %d bytes", cut, n), p, x, x.wrap[:cut])
		}
	}
	target.mustNotOpen(t, "nil", p, x, nil)
	target.mustNotOpen(t, "one byte more", p, x, append(bytes.Clone(x.wrap), 'A'))
	target.mustNotOpen(t, "twice", p, x, append(bytes.Clone(x.wrap), x.wrap...))
	target.mustNotOpen(t, "rubbish", p, x, bytes.Repeat([]byte("\x00\xff{"), 300))
}

func (target Target) mustNotOpen(t *testing.T, what string, p kek.Provider, x wrapped, wrap []byte) {
	t.Helper()
	if !target.Slack {
		refused(t, what, kek.ErrWrongKey, p, binding, x.ref, wrap)
		return
	}
	got, err := p.Unwrap(t.Context(), binding, x.ref, wrap)
	if err == nil && !got.Equal(x.w) {
		t.Errorf("%s: opened to another key", what)
	} else if err != nil && (got != nil || !errors.Is(err, kek.ErrWrongKey)) {
		t.Errorf("%s: got error %v, want %v and no key", what, err, kek.ErrWrongKey)
	}
	got.Wipe()
}

// arguments: what the caller does with its own memory afterwards changes nothing.
func (target Target) arguments(t *testing.T) {
	p := target.New(t)
	x := generate(t, p, binding)
	given := bytes.Clone(x.wrap)
	got, err := p.Unwrap(t.Context(), binding, x.ref, given)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(given, x.wrap) {
		t.Error("Unwrap changed the wrap that it was given")
	}
	clear(given)
	if !got.Equal(x.w) {
		t.Error("the key depends on the caller's wrap")
	}
	got.Wipe()
	x.opens(t, p, binding) // nothing was cached and wiped
	if x.w.Len() != kek.KeySize {
		t.Error("wiping one key wiped another")
	}
}

func (target Target) cancelled(t *testing.T) {
	p := target.New(t)
	x := generate(t, p, binding)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if w, _, _, err := p.Generate(ctx, binding); !errors.Is(err, context.Canceled) {
		w.Wipe()
		t.Errorf("generate: %v", err)
	}
	if w, err := p.Unwrap(ctx, binding, x.ref, x.wrap); !errors.Is(err, context.Canceled) {
		w.Wipe()
		t.Errorf("unwrap: %v", err)
	}
	x.opens(t, p, binding)
}

func (target Target) concurrent(t *testing.T) {
	p := target.New(t)
	shared := generate(t, p, binding)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			b := kek.Binding{VolumeUUID: fmt.Sprintf("0b41f68c-4a4c-4d5e-9a4e-0f1d2c3b4a%02x", i), Role: "agent"}
			w, wrap, ref, err := p.Generate(t.Context(), b)
			if err != nil {
				t.Errorf("generate: %v", err)
				return
			}
			defer w.Wipe()
			got, err := p.Unwrap(t.Context(), b, ref, wrap)
			if err != nil || !got.Equal(w) {
				t.Errorf("unwrap: %v", err)
			}
			got.Wipe()
			got, err = p.Unwrap(t.Context(), binding, shared.ref, shared.wrap)
			if err != nil || !got.Equal(shared.w) {
				t.Errorf("unwrap the shared one: %v", err)
			}
			got.Wipe()
		})
	}
	wg.Wait()
}

// wiped: the provider keeps no key of its own making. Locked memory is where keys are, so that its
// amount tells, as long as no collection frees what was forgotten.
func (target Target) wiped(t *testing.T) {
	p := target.New(t)
	x := generate(t, p, binding)
	use := func() {
		w, _, _, err := p.Generate(t.Context(), binding)
		if err != nil {
			t.Fatal(err)
		}
		w.Wipe()
		if w, err = p.Unwrap(t.Context(), binding, x.ref, x.wrap); err != nil {
			t.Fatal(err)
		}
		w.Wipe()
		changed := bytes.Clone(x.wrap)
		changed[len(changed)-1] ^= 1
		for _, bad := range [][]byte{changed, changed[:len(changed)-1]} {
			if w, err = p.Unwrap(t.Context(), binding, x.ref, bad); err == nil {
				w.Wipe()
			}
		}
	}
	use() // what is made once
	defer stopCollector()()
	runtime.GC()
	before := lockedMemory(t)
	for range 2 {
		use()
	}
	if after := lockedMemory(t); after != before {
		t.Errorf("locked memory went from %s to %s", before, after)
	}
}

func (target Target) rewrap(t *testing.T) {
	p, ok := target.New(t).(kek.Rewrapper)
	if !ok {
		return
	}
	if target.Advance == nil {
		t.Fatal("the provider rewraps, but the target has no Advance")
	}
	x := generate(t, p, binding)
	target.Advance(t)
	p = target.New(t).(kek.Rewrapper)
	x.opens(t, p, binding) // the old version still unwraps
	wrap, ref, err := p.Rewrap(t.Context(), binding, x.ref, x.wrap)
	if err != nil {
		t.Fatalf("rewrap: %v", err)
	}
	if !current(ref, p) || ref == x.ref || bytes.Equal(wrap, x.wrap) {
		t.Errorf("rewrapped from %v to %v, current is %v", x.ref, ref, p.Ref())
	}
	renewed := wrapped{x.w, wrap, ref}
	renewed.opens(t, p, binding)
	if !target.Unbound {
		refused(t, "rewrapped, for another volume", kek.ErrWrongKey, p, otherVolume, ref, wrap)
	}
	if _, _, err := p.Rewrap(t.Context(), binding, x.ref, x.wrap[:len(x.wrap)-1]); !errors.Is(err, kek.ErrWrongKey) {
		t.Errorf("rewrap of a cut wrap: %v", err)
	}
	foreign := x.ref
	foreign.Provider = "elsewhere"
	if _, _, err := p.Rewrap(t.Context(), binding, foreign, x.wrap); !errors.Is(err, kek.ErrNotMine) {
		t.Errorf("rewrap of another provider's: %v", err)
	}
}

func (target Target) fails(state func(*testing.T) kek.Provider, want error) func(*testing.T) {
	return func(t *testing.T) {
		if state == nil {
			return // it cannot be in that state; see Target
		}
		x := generate(t, target.New(t), binding)
		p := state(t)
		defer stopCollector()()
		before := lockedMemory(t)
		if w, _, _, err := p.Generate(t.Context(), binding); !errors.Is(err, want) {
			w.Wipe()
			t.Errorf("generate: got error %v, want %v", err, want)
		}
		if after := lockedMemory(t); after != before {
			t.Errorf("a key that was not wrapped is not wiped: locked memory went from %s to %s", before, after)
		}
		refused(t, "unwrap", want, p, binding, x.ref, x.wrap)
		foreign := x.ref
		foreign.Provider = "elsewhere"
		refused(t, "another provider's", kek.ErrNotMine, p, binding, foreign, x.wrap)
	}
}

func (target Target) slow(t *testing.T) {
	if target.Slow == nil {
		return
	}
	x := generate(t, target.New(t), binding)
	p := target.Slow(t)
	for what, call := range map[string]func(context.Context) (*secret.Key, error){
		"generate": func(ctx context.Context) (*secret.Key, error) {
			w, _, _, err := p.Generate(ctx, binding)
			return w, err
		},
		"unwrap": func(ctx context.Context) (*secret.Key, error) { return p.Unwrap(ctx, binding, x.ref, x.wrap) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		started := time.Now()
		w, err := call(ctx)
		cancel()
		w.Wipe()
		if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, kek.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
		if took := time.Since(started); took > 5*time.Second {
			t.Errorf("%s: returned %v after its deadline", what, took)
		}
	}
}
