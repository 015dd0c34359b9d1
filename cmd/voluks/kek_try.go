// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/volume"
)

func kekTestCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "test",
		Usage: "try out the configured key providers",
		Description: `Has the active key wrap a new key and unwrap it again, for no volume, and each
previous key unwrap for one of the volumes that need it. Nothing is changed,
and nothing is tried twice. It fails if any of them does.

After a change of [kek], and before "voluks kek rotate":

   voluks kek test`,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return e.kekTest(c.Context)
		},
	}
}

// keyTest is what came of one key.
type keyTest struct {
	Use    string   `json:"use"`
	Key    kek.Ref  `json:"key"`
	Wrap   *float64 `json:"wrap_ms,omitempty"`
	Unwrap *float64 `json:"unwrap_ms,omitempty"`
	Result string   `json:"result"` // works, failed, not asked: no volume needs it
	Error  string   `json:"error,omitempty"`

	err error
}

func (e *env) kekTest(ctx context.Context) error {
	set, keys, _, err := e.keyStatuses(ctx)
	if err != nil {
		return err
	}
	m := e.manager(e.quiet(), volume.Defaults{})
	tests := make([]keyTest, 1+len(set.Previous)) // the configured ones come first
	var wg sync.WaitGroup
	for i := range tests {
		wg.Go(func() { tests[i] = testKey(ctx, m, set, keys[i]) })
	}
	wg.Wait()
	if err := e.print(map[string]any{"keys": tests}, func(w io.Writer) {
		var rows [][]string
		for _, t := range tests {
			rows = append(rows, []string{t.Use, t.Key.Provider, t.Key.ID, t.Key.Version, millis(t.Wrap), millis(t.Unwrap), t.Result})
		}
		table(w, []string{"USE", "PROVIDER", "ID", "VERSION", "WRAP", "UNWRAP", "RESULT"}, rows)
	}); err != nil {
		return err
	}
	var errs []error
	for _, t := range tests {
		errs = append(errs, t.err)
	}
	return errors.Join(errs...)
}

func testKey(ctx context.Context, m *volume.Manager, set *kek.Set, s keyStatus) keyTest {
	t := keyTest{Use: s.Use, Key: s.Key, Result: "works"}
	if s.Use == useActive {
		probe := set.Test(ctx, s.provider)
		t.Key, t.err = probe.Ref, probe.Err
		if t.err == nil {
			wrap, unwrap := float64(probe.Wrap.Microseconds())/1000, float64(probe.Unwrap.Microseconds())/1000
			t.Wrap, t.Unwrap = &wrap, &unwrap
		}
	} else {
		if broken, ok := s.provider.(*kek.Broken); ok {
			t.err = broken.Err
		} else if s.look(ctx, m); s.Error != "" {
			t.err = s.err
		}
		t.Unwrap = s.Took
		if t.err == nil && s.Took == nil {
			t.Result = "not asked: no volume needs it"
		}
	}
	if t.err != nil {
		t.Result, t.Error = "failed", strings.ReplaceAll(t.err.Error(), "\n", "; ")
	}
	return t
}
