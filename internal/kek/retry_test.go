// SPDX-License-Identifier: Apache-2.0

package kek_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
)

var retried = kek.Binding{VolumeUUID: "0b41f68c-4a4c-4d5e-9a4e-0f1d2c3b4a59", Role: "agent"}

// F40, F43: a key server that is away for a while, and the volume opens without anybody's doing.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := kektest.NewMemory("one")
		set := m.Set()
		w, wrap, ref, err := set.Generate(t.Context(), retried)
		if err != nil {
			t.Fatal(err)
		}
		w.Wipe()
		set.Patience = time.Minute
		m.Fail(kek.ErrUnavailable)
		time.AfterFunc(40*time.Second, func() { m.Fail(nil) })
		calls, started := m.Calls(), time.Now()
		w, err = set.Unwrap(t.Context(), retried, ref, wrap)
		if err != nil {
			t.Fatal(err)
		}
		w.Wipe()
		if took := time.Since(started); took < 40*time.Second || took > 70*time.Second {
			t.Errorf("took %v", took)
		}
		if n := m.Calls() - calls; n < 6 || n > 12 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestPatienceEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		state    error
		patience time.Duration
		cancel   time.Duration
		calls    func(int) bool
		took     time.Duration // at most
	}{
		"impatient":      {fmt.Errorf("x: %w", kek.ErrUnavailable), 0, 0, func(n int) bool { return n == 1 }, 0},
		"never comes":    {kek.ErrUnavailable, time.Minute, 0, func(n int) bool { return n > 5 }, time.Minute},
		"caller gave up": {kek.ErrUnavailable, time.Hour, 5 * time.Second, func(n int) bool { return n > 2 }, 5 * time.Second},
		"denied":         {kek.ErrDenied, time.Minute, 0, func(n int) bool { return n == 1 }, 0},
		"disabled":       {kek.ErrDisabled, time.Minute, 0, func(n int) bool { return n == 1 }, 0},
		"gone":           {kek.ErrNotFound, time.Minute, 0, func(n int) bool { return n == 1 }, 0},
		"misconfigured":  {&kek.ConfigError{Setting: "kek.x", Err: errors.New("no")}, time.Minute, 0, func(n int) bool { return n == 1 }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := kektest.NewMemory("one")
				set := m.Set()
				set.Patience = tc.patience
				m.Fail(tc.state)
				ctx := t.Context()
				if tc.cancel > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, tc.cancel)
					defer cancel()
				}
				started := time.Now()
				_, _, _, err := set.Generate(ctx, retried)
				if !errors.Is(err, tc.state) && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("got %v", err)
				}
				if n := m.Calls(); !tc.calls(n) {
					t.Errorf("asked %d times", n)
				} else if n > 1 && !strings.Contains(err.Error(), fmt.Sprintf("tried %d times", n)) {
					t.Errorf("%v does not say that it tried", err)
				}
				if took := time.Since(started); took > tc.took {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}

// A keeper that hangs is given up after the time for one call, and tried again.
func TestHangingKeeper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := kektest.NewMemory("one")
		set := m.Set()
		set.Patience = 50 * time.Second
		m.Hang(true)
		time.AfterFunc(30*time.Second, func() { m.Hang(false) })
		started := time.Now()
		w, _, _, err := set.Generate(t.Context(), retried)
		if err != nil {
			t.Fatal(err)
		}
		w.Wipe()
		if took := time.Since(started); took < 40*time.Second || took > 50*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestBackoff(t *testing.T) {
	var b kek.Backoff
	whole := 250 * time.Millisecond
	different := false
	for i := range 40 {
		wait := b.Next()
		if wait < whole/2 || wait > whole {
			t.Errorf("wait %d is %v, of %v", i, wait, whole)
		}
		different = different || wait != whole/2
		whole = min(2*whole, 30*time.Second)
	}
	if !different {
		t.Error("nothing is left to chance")
	}
}

// Each provider has its own time for a call, and all calls keep to it.
func TestTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := kektest.NewMemory("slow")
		p := slow.New()
		set := &kek.Set{Active: p, Timeouts: map[kek.Provider]time.Duration{p: 3 * time.Second}}
		w, wrap, ref, err := set.Generate(t.Context(), retried)
		if err != nil {
			t.Fatal(err)
		}
		w.Wipe()
		slow.Hang(true)
		for name, call := range map[string]func() error{
			"generate": func() error { _, _, _, err := set.Generate(t.Context(), retried); return err },
			"unwrap":   func() error { _, err := set.Unwrap(t.Context(), retried, ref, wrap); return err },
			"rewrap":   func() error { _, _, err := set.Rewrap(t.Context(), retried, ref, wrap); return err },
			"test":     func() error { return set.Test(t.Context(), p).Err },
		} {
			started := time.Now()
			if err := call(); !errors.Is(err, kek.ErrUnavailable) || time.Since(started) != 3*time.Second {
				t.Errorf("%s: %v after %v", name, err, time.Since(started))
			}
		}
	})
}

// One that is not there keeps nobody from asking the one that has the key. F7
func TestNoPatienceWithOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := kektest.NewMemory("one")
		w, wrap, ref, err := m.Set().Generate(t.Context(), retried)
		if err != nil {
			t.Fatal(err)
		}
		w.Wipe()
		set := &kek.Set{Active: &kek.Broken{Name: ref.Provider, Err: fmt.Errorf("%w: not mounted", kek.ErrUnavailable)}, Previous: []kek.Provider{m.New()}, Patience: time.Minute}
		started := time.Now()
		w, err = set.Unwrap(t.Context(), retried, ref, wrap)
		if err != nil {
			t.Fatal(err)
		}
		w.Wipe()
		if took := time.Since(started); took != 0 {
			t.Errorf("took %v", took)
		}
	})
}
