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

// Only what has been due for some time is erased, by a clock that nobody sets; one that fails keeps no other; a configuration that cannot be read erases
// nothing; where nothing is to be kept it goes at once. F27
func TestEraser(t *testing.T) {
	keep, keepErr := 24*time.Hour, error(nil)
	var asked time.Duration
	var done []string
	due := []volume.Removed{{UUID: "a"}, {UUID: "b"}}
	r := &eraser{
		keep: func() (time.Duration, error) { return keep, keepErr },
		expired: func(_ context.Context, d time.Duration) ([]volume.Removed, error) {
			asked = d
			return due, nil
		},
		erase: func(_ context.Context, seen volume.Removed) (volume.EraseReceipt, error) {
			done = append(done, seen.UUID)
			if seen.UUID == "a" {
				return volume.EraseReceipt{}, errors.New("no")
			}
			return volume.EraseReceipt{Incomplete: []string{"a backup"}}, nil
		},
		log: slog.New(slog.DiscardHandler),
	}
	at := func(up time.Duration, want ...string) {
		t.Helper()
		done = nil
		if r.once(t.Context(), up); !slices.Equal(done, want) {
			t.Errorf("after %v: erased %q, want %q", up, done, want)
		}
	}
	const start = 100 * time.Hour
	at(start)
	at(start + doubtTime - 1)
	at(start+doubtTime, "a", "b")
	if asked != keep {
		t.Errorf("asked for what is over after %v", asked)
	}
	// The clock, or the configuration, was wrong for a while.
	both := due
	due = nil
	at(start + doubtTime + 1)
	due = both
	at(start + doubtTime + 2)
	keepErr = errors.New("cannot be read")
	at(start + 2*doubtTime)
	keepErr = nil
	at(start + 3*doubtTime)
	at(start+4*doubtTime, "a", "b")
	// What was begun is finished at once, and so is what is not to be kept.
	due = []volume.Removed{{UUID: "c", Erasing: true}}
	at(start+4*doubtTime+1, "c")
	keep, due = 0, []volume.Removed{{UUID: "d"}}
	at(start+4*doubtTime+2, "d")
}
