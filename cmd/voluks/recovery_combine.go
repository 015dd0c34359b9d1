// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/recovery/share"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
)

func recoveryCombineCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "combine",
		Usage:     "put the recovery identity together from its shares",
		ArgsUsage: "[FILE...]",
		Description: `Reads shares from files or, without any, asks for one after the other. A
share that is mistyped, repeated, or of another identity is named and can
be given again. In the end the identity is compared with the fingerprint
that the shares carry; there is no wrong identity.

It is shown on the terminal or, with --out, written to a new file. This
works on any machine, and best on one without a network.

   voluks recovery combine
   voluks recovery combine --out /run/identity share-1 share-4 share-5`,
		Flags: []cli.Flag{&cli.StringFlag{Name: "out", Usage: "new `FILE` for the identity"}},
		Action: func(c *cli.Context) error {
			return e.recoveryCombine(c.Context, c.Args().Slice(), c.String("out"))
		},
	}
}

func recoveryCheckCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "check",
		Usage:     "see whether shares are whole, each by itself",
		ArgsUsage: "[FILE...]",
		Description: `Reads shares from files or, without any, asks for one. It says whether
each is what was handed out, and of which identity. The identity is not
put together.

   voluks recovery check
   voluks recovery check share-2-of-5.txt`,
		Action: func(c *cli.Context) error {
			return e.recoveryCheck(c.Context, c.Args().Slice())
		},
	}
}

type shareResult struct {
	File        string `json:"file,omitempty"`
	Number      int    `json:"number"`
	Total       int    `json:"total"`
	Needed      int    `json:"needed"`
	Fingerprint string `json:"fingerprint"`
	Kind        string `json:"kind"`
	Set         string `json:"set"`
	OfThisNode  bool   `json:"of_this_node"` // it is of an identity that the configuration here names
}

func (e *env) recoveryCheck(ctx context.Context, files []string) error {
	if err := sys.Harden(); err != nil {
		return err
	}
	shares, err := e.shares(ctx, files, 1)
	defer share.WipeAll(shares)
	if err != nil {
		return err
	}
	results := []shareResult{}
	for i, s := range shares {
		r := shareResult{Number: s.Number, Total: s.Total, Needed: s.Needed, Fingerprint: s.Fingerprint.String(), Kind: s.Kind.String(), Set: s.Set(),
			OfThisNode: slices.Contains(e.fingerprints(), s.Fingerprint.String())}
		if len(files) > 0 {
			r.File = files[i]
		}
		results = append(results, r)
	}
	return e.print(map[string][]shareResult{"shares": results}, func(w io.Writer) {
		for i, s := range shares {
			which := ""
			if results[i].OfThisNode {
				which = ", which opens the volumes of this node"
			}
			fmt.Fprintf(w, "Good: share %d of %d of the identity %s%s. Any %d of splitting %s give it back.\n", s.Number, s.Total, s.Fingerprint, which, s.Needed, s.Set())
		}
	})
}

type combineResult struct {
	Fingerprint string `json:"fingerprint"`
	Recipient   string `json:"recipient"`
	OfThisNode  bool   `json:"of_this_node"`
	File        string `json:"file"`
}

func (e *env) recoveryCombine(ctx context.Context, files []string, out string) error {
	if err := sys.Harden(); err != nil {
		return err
	}
	if out == "" && !e.interactive() {
		return &refusedError{text: "there is no terminal to show the identity on", retry: "voluks recovery combine --out FILE SHARE..."}
	}
	shares, err := e.shares(ctx, files, 0)
	defer share.WipeAll(shares)
	if err != nil {
		return err
	}
	identity, recipient, err := share.Combine(shares)
	if err != nil {
		return namedByFile(err, files)
	}
	defer identity.Wipe()
	result := combineResult{recipient.Fingerprint(), recipient.String(), slices.Contains(e.fingerprints(), recipient.Fingerprint()), out}
	if out != "" {
		if err := writeIdentity(out, identity, recipient.String()); err != nil {
			return err
		}
	}
	var failed error
	err = e.print(result, func(w io.Writer) { failed = result.text(w, identity) })
	return errors.Join(err, failed)
}

func (r combineResult) text(w io.Writer, identity *secret.Key) error {
	if r.File == "" {
		fmt.Fprint(w, "\nThis is the recovery identity:\n\n    ")
		if _, err := w.Write(identity.Bytes()); err != nil {
			return fmt.Errorf("show the identity: %w", err)
		}
		fmt.Fprint(w, "\n\n")
	} else {
		fmt.Fprintf(w, "made %s: the recovery identity. Whoever has it opens every volume: destroy it after use.\n", r.File)
	}
	fmt.Fprintf(w, "Its recipient is %s (fingerprint %s).\n", shortened(r.Recipient), r.Fingerprint)
	if r.OfThisNode {
		fmt.Fprintln(w, "It opens the volumes of this node.")
	}
	return nil
}

// fingerprints are those of the recipients of this node; none where there is no configuration that can be read, since shares are combined anywhere.
func (e *env) fingerprints() []string {
	cfg, err := e.loadConfig()
	if err != nil {
		return nil
	}
	recipients, err := recovery.ParseRecipients(cfg.Recovery.Recipients)
	if err != nil {
		return nil
	}
	return recovery.Fingerprints(recipients)
}

// namedByFile says of which file each complaint is.
func namedByFile(err error, files []string) error {
	var one *share.Error
	var joined interface{ Unwrap() []error }
	if len(files) == 0 || !errors.As(err, &one) || !errors.As(err, &joined) {
		return &shareError{err: err}
	}
	var named []error
	for _, err := range joined.Unwrap() {
		if errors.As(err, &one) && one.Position <= len(files) {
			err = &shareError{file: filepath.Clean(files[one.Position-1]), err: err}
		}
		named = append(named, err)
	}
	return errors.Join(named...)
}

// shareError is a share that is not what it should be.
type shareError struct {
	file string // "": typed
	err  error
}

func (e *shareError) Error() string {
	if e.file == "" {
		return e.err.Error()
	}
	return e.file + ": " + e.err.Error()
}

func (e *shareError) Unwrap() error { return e.err }
