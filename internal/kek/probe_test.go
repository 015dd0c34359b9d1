// SPDX-License-Identifier: Apache-2.0

package kek_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/secret"
)

func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := kektest.NewMemory("one")
		m.Advance()
		if probe := (&kek.Set{}).Test(t.Context(), m.New()); probe.Err != nil || probe.Ref.Version != "2" || m.Calls() != 2 {
			t.Errorf("%+v after %d calls", probe, m.Calls())
		}
		m.Fail(kek.ErrDenied)
		if probe := (&kek.Set{}).Test(t.Context(), m.New()); !errors.Is(probe.Err, kek.ErrDenied) || probe.Ref.ID != "one" {
			t.Errorf("%+v", probe)
		}
		m.Fail(nil)
		m.Hang(true)
		if probe := (&kek.Set{}).Test(t.Context(), m.New()); !errors.Is(probe.Err, kek.ErrUnavailable) || probe.Wrap == 0 {
			t.Errorf("%+v", probe)
		}
		m.Hang(false)
		if probe := (&kek.Set{}).Test(t.Context(), confused{m.New()}); probe.Err == nil {
			t.Error("a provider that returns another key is well")
		}
	})
}

// confused returns another key than it has wrapped.
type confused struct{ kek.Provider }

func (confused) Unwrap(context.Context, kek.Binding, kek.Ref, []byte) (*secret.Key, error) {
	return secret.Random(kek.KeySize)
}
