// SPDX-License-Identifier: Apache-2.0

package kektest_test

import (
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
)

func TestMemory(t *testing.T) {
	m, other := kektest.NewMemory("one"), kektest.NewMemory("two")
	in := func(set func()) func(*testing.T) kek.Provider {
		return func(t *testing.T) kek.Provider {
			set()
			t.Cleanup(func() { m.Fail(nil); m.Hang(false) })
			return m.New()
		}
	}
	kektest.Run(t, kektest.Target{
		New:      func(*testing.T) kek.Provider { return m.New() },
		Other:    func(*testing.T) kek.Provider { return other.New() },
		Down:     in(func() { m.Fail(kek.ErrUnavailable) }),
		Denied:   in(func() { m.Fail(kek.ErrDenied) }),
		Disabled: in(func() { m.Fail(kek.ErrDisabled) }),
		Slow:     in(func() { m.Hang(true) }),
		Advance:  func(*testing.T) { m.Advance() },
	})
}
