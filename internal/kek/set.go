// SPDX-License-Identifier: Apache-2.0

package kek

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/voluks/voluks/internal/secret"
)

// DefaultTimeout is how long a provider may take for one call unless the set says otherwise.
const DefaultTimeout = 20 * time.Second

// Set is what a node has: the provider that wraps and those that still unwrap. It checks what they
// return, so that no user of it has to.
type Set struct {
	Active   Provider   // wraps and unwraps
	Previous []Provider // unwrap only
	// Patience is how long calls are repeated whose errors may pass; 0 is not at all. An unlock that
	// somebody waits for should have some, one that is tried again anyway needs none.
	Patience time.Duration
	// Timeouts are how long those providers may take for one call that have another limit than the
	// usual one.
	Timeouts map[Provider]time.Duration
}

// Generate makes a new W with the active provider. The caller wipes w.
func (s *Set) Generate(ctx context.Context, b Binding) (w *secret.Key, wrap []byte, ref Ref, err error) {
	if err := b.Validate(); err != nil {
		return nil, nil, Ref{}, err
	}
	err = s.persist(ctx, s.Active, func(ctx context.Context) (err error) {
		if w, wrap, ref, err = s.Active.Generate(ctx, b); err != nil {
			w.Wipe()
		}
		return err
	})
	if err != nil {
		return nil, nil, Ref{}, fmt.Errorf("wrap a key with %v: %w", s.Active.Ref(), err)
	}
	if err := whole(ref, wrap); err != nil {
		w.Wipe()
		return nil, nil, Ref{}, fmt.Errorf("wrap a key with %v: %w", s.Active.Ref(), err)
	}
	if n := w.Len(); n != KeySize {
		w.Wipe()
		return nil, nil, Ref{}, fmt.Errorf("wrap a key with %v: it returned a key of %d bytes instead of %d", s.Active.Ref(), n, KeySize)
	}
	return w, wrap, ref, nil
}

// whole refuses a wrap that cannot stand in a header.
func whole(ref Ref, wrap []byte) error {
	if err := ref.Validate(); err != nil {
		return err
	}
	if len(wrap) == 0 || len(wrap) > MaxWrap {
		return fmt.Errorf("it returned a wrapped key of %d bytes (1 to %d)", len(wrap), MaxWrap)
	}
	return nil
}

// Rewrap has the active provider renew a wrap of its own. The error is errors.ErrUnsupported where that one does not renew, and ErrNotMine where the
// wrap is another's.
func (s *Set) Rewrap(ctx context.Context, b Binding, ref Ref, wrap []byte) (newWrap []byte, newRef Ref, err error) {
	p, ok := s.Active.(Rewrapper)
	if !ok {
		return nil, Ref{}, errors.ErrUnsupported
	}
	if ref.Provider != p.Ref().Provider {
		return nil, Ref{}, ErrNotMine
	}
	err = s.persist(ctx, p, func(ctx context.Context) (err error) {
		newWrap, newRef, err = p.Rewrap(ctx, b, ref, wrap)
		return err
	})
	if err == nil {
		err = whole(newRef, newWrap)
	}
	if err != nil {
		return nil, Ref{}, fmt.Errorf("renew what %v has wrapped: %w", ref, err)
	}
	return newWrap, newRef, nil
}

// Only is the set of one of its providers.
func (s *Set) Only(p Provider) *Set {
	return &Set{Active: p, Patience: s.Patience, Timeouts: s.Timeouts}
}

// Unwrap returns W from the provider that has the key that ref names. The caller wipes it. If none
// has it the error is a *NoProviderError; otherwise it is the error of the one that has.
func (s *Set) Unwrap(ctx context.Context, b Binding, ref Ref, wrap []byte) (*secret.Key, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	missing := &NoProviderError{Want: ref}
	for _, p := range append([]Provider{s.Active}, s.Previous...) {
		w, err := s.unwrap(ctx, p, b, ref, wrap)
		if err == nil {
			return w, nil
		}
		if !errors.Is(err, ErrNotMine) {
			return nil, fmt.Errorf("unwrap a key with %v: %w", ref, err)
		}
		missing.Have = append(missing.Have, p.Ref())
		var not *NotMineError
		if errors.As(err, &not) && not.Err != nil {
			missing.Errs = append(missing.Errs, not.Err)
		}
	}
	return nil, fmt.Errorf("unwrap a key: %w", missing)
}

func (s *Set) unwrap(ctx context.Context, p Provider, b Binding, ref Ref, wrap []byte) (w *secret.Key, err error) {
	err = s.persist(ctx, p, func(ctx context.Context) (err error) {
		if w, err = p.Unwrap(ctx, b, ref, wrap); err != nil {
			w.Wipe()
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if n := w.Len(); n != KeySize {
		w.Wipe()
		return nil, fmt.Errorf("it returned a key of %d bytes instead of %d: %w", n, KeySize, ErrWrongKey)
	}
	return w, nil
}

// Broken stands for a configured provider that could not be made, so that the others work. It has
// the provider's name and the reason.
type Broken struct {
	Name string // of the provider
	Err  error  // why it cannot be used
}

// Ref has no ID: the key is not known.
func (p *Broken) Ref() Ref { return Ref{Provider: p.Name} }

// Generate returns the reason.
func (p *Broken) Generate(context.Context, Binding) (*secret.Key, []byte, Ref, error) {
	return nil, nil, Ref{}, p.Err
}

// Unwrap is never the one to open, since another provider of the same name may be; the reason is
// told if it could have been.
func (p *Broken) Unwrap(_ context.Context, _ Binding, ref Ref, _ []byte) (*secret.Key, error) {
	not := &NotMineError{Want: ref, Have: p.Ref()}
	if ref.Provider == p.Name {
		not.Err = p.Err
	}
	return nil, not
}
