// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/recovery/share"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
)

// lending says where the recovery identity comes from that somebody lends to a command: a file, shares in files, shares that are typed, or, if nothing is
// set, what a person types.
type lending struct {
	file   string // "-": standard input
	shares []string
	typed  bool
}

func lendFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "identity-file", Usage: "`FILE` with the identity; - is standard input"},
		&cli.StringSliceFlag{Name: "share", Usage: "`FILE` with a share of the identity; repeatable"},
		&cli.BoolFlag{Name: "shares", Usage: "ask for the shares of the identity", DisableDefaultText: true},
	}
}

func lendingOf(c *cli.Context) (lending, error) {
	l := lending{c.String("identity-file"), c.StringSlice("share"), c.Bool("shares")}
	given := 0
	for _, set := range []bool{l.file != "", len(l.shares) > 0, l.typed} {
		if set {
			given++
		}
	}
	if given > 1 {
		return l, &usageError{command: c.Command.HelpName, text: "choose one of --identity-file, --share and --shares"}
	}
	return l, nil
}

// lent is a recovery identity that somebody lends to this process: its text, which the caller wipes, and what it means.
type lent struct {
	text       *secret.Key
	identities []recovery.Identity
}

// borrow gets the identity. From now on this process leaves no core dump.
func (e *env) borrow(ctx context.Context, l lending) (*lent, error) {
	if err := sys.Harden(); err != nil {
		return nil, err
	}
	var text *secret.Key
	var err error
	switch {
	case len(l.shares) > 0 || l.typed:
		text, err = e.combined(ctx, l.shares)
	case l.file == "" && !e.interactive():
		return nil, &refusedError{text: "there is no terminal to ask for the identity on: name a file with --identity-file"}
	default:
		text, err = e.identity(ctx, l.file)
	}
	if err != nil {
		return nil, err
	}
	identities, err := recovery.ParseIdentities(text)
	if err != nil {
		text.Wipe()
		return nil, &shareError{file: l.file, err: err}
	}
	return &lent{text, identities}, nil
}

// borrowFile is borrow for recoveryIdentityFlag; nothing if it is not given. The caller wipes the text.
func (e *env) borrowFile(ctx context.Context, path string) (*lent, error) {
	if path == "" {
		return &lent{}, nil
	}
	return e.borrow(ctx, lending{file: path})
}

// combined puts the identity together from shares in files or, without any, from those that persons type.
func (e *env) combined(ctx context.Context, files []string) (*secret.Key, error) {
	shares, err := e.shares(ctx, files, 0)
	defer share.WipeAll(shares)
	if err != nil {
		return nil, err
	}
	identity, _, err := share.Combine(shares)
	if err != nil {
		return nil, namedByFile(err, files)
	}
	return identity, nil
}

// fingerprints are those of the lent identities.
func (l *lent) fingerprints() []string {
	var all []string
	for _, i := range l.identities {
		all = append(all, i.Recipient().Fingerprint())
	}
	return all
}

// confirmKept asks for the end of what is shown, so that nobody only presses Enter; false if it was not typed in three tries.
func (e *env) confirmKept(ctx context.Context, shown *secret.Key, last int) (bool, error) {
	tail := shown.Bytes()[shown.Len()-last:]
	for range 3 {
		answer, err := e.ask(ctx, fmt.Sprintf("When it is kept, type its last %d characters: ", last))
		if err != nil {
			return false, err
		}
		if strings.EqualFold(answer, string(tail)) {
			return true, nil
		}
		if answer == "" {
			break
		}
		fmt.Fprintln(e.stdout, "That is not how it ends.")
	}
	return false, nil
}
