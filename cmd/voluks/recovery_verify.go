// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/worker"
)

func recoveryVerifyCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "verify",
		Usage:     "the drill: see that the identity opens every volume",
		ArgsUsage: "[NAME...]",
		Description: `Opens the recovery slot of each volume (all, if none is named) with the
recovery identity, by two independent implementations. Nothing of a volume is
changed, and mounted ones stay mounted. When that last went well is written
down; "volume ls", "volume inspect" and "doctor" say when a drill is overdue
(drill under [recovery] in the configuration, 180d by default).

The identity comes from a file or standard input, from shares in files or
typed one after the other, or is asked for. It is not kept.

   voluks recovery verify
   voluks recovery verify --identity-file /media/usb/identity
   voluks recovery verify --shares`,
		Flags: append(lendFlags(), bulkFlags()[1:]...),
		Action: func(c *cli.Context) error {
			if n := c.Int("parallel"); n < 1 || n > 64 {
				return &usageError{command: c.Command.HelpName, text: "--parallel is 1 to 64"}
			}
			l, err := lendingOf(c)
			if err != nil {
				return err
			}
			return e.recoveryVerify(c.Context, c.Args().Slice(), l, c.Int("parallel"))
		},
	}
}

type verifyResult struct {
	bulkResult
	Identities []string `json:"identities"` // fingerprints of those that were tried
	// Untried are fingerprints of identities that the volumes of this node are sealed to, too, or shall be.
	Untried []string `json:"untried"`
}

func (e *env) recoveryVerify(ctx context.Context, names []string, l lending, parallel int) error {
	jobs, err := e.jobs(ctx, names)
	if err != nil {
		return err
	}
	id, err := e.borrow(ctx, l)
	if err != nil {
		return err
	}
	defer id.text.Wipe()
	b := &bulk{e: e, jobs: jobs, parallel: parallel, verb: "opens", again: "voluks recovery verify", identity: id.text}
	b.run(ctx, func(ctx context.Context, c *worker.Client, name string) (volume.KeyReceipt, error) {
		return c.VerifyRecovery(ctx, name)
	})
	result := verifyResult{bulkResult: b.result(), Identities: id.fingerprints(), Untried: []string{}}
	for _, f := range e.fingerprints() {
		if !slices.Contains(result.Identities, f) {
			result.Untried = append(result.Untried, f)
		}
	}
	if err := e.print(result, func(w io.Writer) {
		b.table(w)
		opened := 0
		for _, j := range result.Volumes {
			if j.Receipt != nil {
				opened++
			}
		}
		fmt.Fprintf(w, "the identity %s opens %d of %d volumes\n", strings.Join(result.Identities, ", "), opened, len(result.Volumes))
		for _, f := range result.Untried {
			fmt.Fprintf(w, "not tried: the identity %s, which opens volumes of this node too\n", f)
		}
	}); err != nil {
		return err
	}
	if err := b.err(ctx); err != nil {
		return err
	}
	if len(names) == 0 && len(result.Untried) > 0 && len(result.Untried) == len(e.fingerprints()) {
		return &volume.Error{Code: volume.CodeLocked, Op: "verify", Err: recovery.ErrWrongIdentity}
	}
	return nil
}
