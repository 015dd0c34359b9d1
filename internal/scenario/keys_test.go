// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"context"
	"os/exec"
	"testing"
	"time"
)

// All keys are rotated over and over while pgbench writes: no transaction fails, every one that was committed is there, and the sums that each transaction
// keeps equal are equal, now and after the volume was closed and opened. F31
func TestRotateUnderPgbench(t *testing.T) {
	full(t)
	v := newVolume(t, "rotated", "size=200M")
	start(t, "pg", "-v", v+":/data", "voluks-demo/stack")
	sql := func(query string) string {
		t.Helper()
		return output(t, "docker", "exec", "pg", "psql", "-U", "postgres", "-qAtc", query)
	}
	ready := func() {
		t.Helper()
		within(t, 4*time.Minute, func() error {
			_, err := try("docker", "exec", "pg", "psql", "-U", "postgres", "-qAtc", "select 1")
			return err
		})
	}
	ready()
	output(t, "docker", "exec", "pg", "pgbench", "-U", "postgres", "-i", "-q", "-s", "1", "postgres")

	ctx, cancel := context.WithTimeout(t.Context(), 3*patient)
	defer cancel()
	bench := exec.CommandContext(ctx, "docker", "exec", "pg", "pgbench", "-U", "postgres", "-c", "2", "-T", "20", "postgres")
	var said bytes.Buffer
	bench.Stdout, bench.Stderr = &said, &said
	if err := bench.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- bench.Wait() }()
	rotations := 0
	var err error
	for running := true; running; {
		select {
		case err = <-ended:
			running = false
		case <-time.After(100 * time.Millisecond): // PostgreSQL gets a turn too: the guest has one processor
			output(t, "voluks", "keyslot", "rotate", "--role", "all", v)
			rotations++
		}
	}
	processed, failed := transactions.FindStringSubmatch(said.String()), failures.FindStringSubmatch(said.String())
	if err != nil || processed == nil || failed == nil || failed[1] != "0" || rotations < 2 {
		t.Fatalf("%d rotations, pgbench: %v\n%s", rotations, err, said.String())
	}
	t.Logf("%d rotations under %s transactions", rotations, processed[1])
	same := func() {
		t.Helper()
		const sums = "select (select count(*) from pgbench_history), (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)" +
			" and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)" +
			" and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)"
		if got := sql(sums); got != processed[1]+"|t" {
			t.Errorf("%s transactions were committed, the database has %s", processed[1], got)
		}
	}
	same()
	output(t, "docker", "restart", "pg")
	ready()
	same()
}
