// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/worker"
	"github.com/voluks/voluks/keyslot"
)

func bulkOf(t *testing.T, names ...string) (*bulk, *bytes.Buffer) {
	t.Helper()
	var out bytes.Buffer
	b := &bulk{e: &env{root: t.TempDir(), stdout: &out, stderr: &out}, parallel: 1, verb: "rotated", again: "voluks keyslot rotate --all --older-than 1h"}
	for _, name := range names {
		b.jobs = append(b.jobs, job{Volume: name})
	}
	return b, &out
}

func rotated(name string) volume.KeyReceipt {
	return volume.KeyReceipt{Volume: name, Rotated: []keyslot.Rotated{{Role: "agent", OldSlot: 31, NewSlot: 29, OldGeneration: 1, NewGeneration: 2}}}
}

// One volume that fails keeps no other; what each did is told line by line and in the table, and the exit status is that of the failure.
func TestBulkGoesOn(t *testing.T) {
	b, out := bulkOf(t, "a", "b", "c")
	b.run(t.Context(), func(_ context.Context, _ *worker.Client, name string) (volume.KeyReceipt, error) {
		if name == "b" {
			half := rotated(name)
			return half, &volume.Error{Code: volume.CodeNoRecovery, Op: "rotate", Volume: name, Err: errors.New("no recipient")}
		}
		return rotated(name), nil
	})
	b.table(out)
	for _, want := range []string{"1/3 a: agent slot 31 -> 29, generation 1 -> 2", "2/3 b: failed", "3/3 c: agent", "b     failed   rotate volume", "c     rotated"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	err := b.err(t.Context())
	if err == nil || exitCode(err) != exitCode(b.jobs[1].err) || !strings.Contains(err.Error(), "1 of 3") {
		t.Errorf("%v, exit status %d", err, exitCode(err))
	}
	// What was changed before it failed is told too.
	if r := b.result(); r.Failed != 1 || r.Volumes[1].Receipt == nil || r.Volumes[1].Error == "" || r.Volumes[0].Error != "" {
		t.Errorf("%+v", r)
	}
}

// After Ctrl-C no other volume is begun, and the way to go on with those that are left is told.
func TestBulkInterrupted(t *testing.T) {
	b, _ := bulkOf(t, "a", "b", "c", "d")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var done []string
	b.run(ctx, func(ctx context.Context, _ *worker.Client, name string) (volume.KeyReceipt, error) {
		done = append(done, name)
		if name == "b" {
			stop()
		}
		return rotated(name), nil
	})
	err := b.err(ctx)
	if exitCode(err) != exitInterrupted || len(done) < 2 || len(done) > 3 || b.jobs[3].Code != volume.CodeCanceled { // c may have been handed over already
		t.Errorf("done %v: %v, exit status %d", done, err, exitCode(err))
	}
	if hints := hint(err); len(hints) != 1 || !strings.Contains(hints[0], "voluks keyslot rotate --all --older-than 1h") {
		t.Errorf("hints %v", hints)
	}
	if !strings.Contains(fmt.Sprint(b.result()), "not begun") {
		t.Errorf("%+v", b.result())
	}
}
