// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/volume"
)

// Only what is due is erased; one that fails keeps no other; a configuration that cannot be read, or a clock that may still be wrong, erases nothing. F27
func TestEraser(t *testing.T) {
	keep, keepErr := 24*time.Hour, error(nil)
	var asked time.Duration
	var done []string
	r := &eraser{
		keep: func() (time.Duration, error) { return keep, keepErr },
		expired: func(_ context.Context, d time.Duration) ([]string, error) {
			asked = d
			return []string{"a", "b", "c"}, nil
		},
		erase: func(_ context.Context, id string) (volume.EraseReceipt, error) {
			done = append(done, id)
			if id == "a" {
				return volume.EraseReceipt{}, errors.New("no")
			}
			return volume.EraseReceipt{Incomplete: []string{"a backup"}}, nil
		},
		log: slog.New(slog.DiscardHandler),
	}
	if r.once(t.Context(), clockTime-1); len(done) > 0 {
		t.Errorf("erased right after the start: %v", done)
	}
	if r.once(t.Context(), clockTime); !slices.Equal(done, []string{"a", "b", "c"}) || asked != keep {
		t.Errorf("erased %v of what is over after %v", done, asked)
	}
	done, keepErr = nil, errors.New("cannot be read")
	if r.once(t.Context(), time.Hour); len(done) > 0 {
		t.Errorf("erased without a configuration: %v", done)
	}
	keep, keepErr = 0, nil
	if r.once(t.Context(), 0); len(done) != 3 {
		t.Errorf("nothing is to be kept, and what was erased at once is %v", done)
	}
}
