// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/qr"
	"github.com/voluks/voluks/internal/recovery/share"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
)

func recoverySplitCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "split",
		Usage:     "split the recovery identity among several owners",
		ArgsUsage: "NEEDED/TOTAL",
		Description: `Makes shares of a recovery identity. So many of them as are NEEDED give it
back, with "voluks recovery combine"; fewer give nothing away. Each share
can be typed, and checked without the others.

On a terminal it asks for the identity and shows the shares one after the
other, so that each owner sees only one. With --out each becomes a file in
a directory, to be printed or handed out and then destroyed.

The identity itself still works afterwards. Destroy it, or the shares
protect nothing.

   voluks recovery split 3/5
   voluks recovery split 2/3 --identity-file id --out /run/shares`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "identity-file", Usage: "`FILE` with the identity; - is standard input"},
			&cli.StringFlag{Name: "out", Usage: "existing `DIR` for a file for each share"},
			&cli.BoolFlag{Name: "qr", Usage: "show each share as a QR code, too", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NEEDED/TOTAL")
			if err != nil {
				return err
			}
			needed, total, err := ratio(args[0])
			if err != nil {
				return &usageError{command: c.Command.HelpName, text: err.Error()}
			}
			return e.recoverySplit(c.Context, needed, total, c.String("identity-file"), c.String("out"), c.Bool("qr"))
		},
	}
}

// ratio reads "3/5".
func ratio(s string) (needed, total int, err error) {
	first, second, found := strings.Cut(s, "/")
	needed, err1 := strconv.Atoi(first)
	total, err2 := strconv.Atoi(second)
	if !found || err1 != nil || err2 != nil || needed < share.MinNeeded || needed > total || total > share.MaxShares {
		return 0, 0, fmt.Errorf("%.20q is not a splitting such as 3/5: %d or more needed, of at most %d", s, share.MinNeeded, share.MaxShares)
	}
	return needed, total, nil
}

type splitResult struct {
	Fingerprint string   `json:"fingerprint"`
	Needed      int      `json:"needed"`
	Total       int      `json:"total"`
	Set         string   `json:"set"`
	Files       []string `json:"files,omitempty"`
}

func (r splitResult) text(w io.Writer) {
	fmt.Fprintf(w, "There are %d shares of the identity %s, splitting %s; any %d give it back.\n", r.Total, r.Fingerprint, r.Set, r.Needed)
	fmt.Fprintln(w, "Let each owner check what was kept: voluks recovery check\nThen destroy the identity itself, or the shares protect nothing.")
}

func (e *env) recoverySplit(ctx context.Context, needed, total int, identityFile, out string, code bool) error {
	if err := sys.Harden(); err != nil {
		return err
	}
	if !e.interactive() && (out == "" || identityFile == "") {
		return &refusedError{text: "there is no terminal to ask for the identity and show the shares on", retry: "voluks recovery split --identity-file FILE --out DIR NEEDED/TOTAL"}
	}
	identity, err := e.identity(ctx, identityFile)
	if err != nil {
		return err
	}
	defer identity.Wipe()
	shares, err := share.Split(identity, needed, total)
	if err != nil {
		return &shareError{file: identityFile, err: err}
	}
	defer share.WipeAll(shares)
	result := splitResult{Fingerprint: shares[0].Fingerprint.String(), Needed: needed, Total: total, Set: shares[0].Set()}
	if out == "" {
		if err := e.showShares(ctx, shares, code); err != nil {
			return err
		}
		return e.print(result, result.text)
	}
	if result.Files, err = writeShares(out, shares); err != nil {
		return err
	}
	return e.print(result, func(w io.Writer) {
		for i, path := range result.Files {
			fmt.Fprintf(w, "made %s: share %d of %d\n", path, i+1, total)
		}
		result.text(w)
	})
}

// cleared empties the screen, and what a terminal remembers of it.
const cleared = "\x1b[2J\x1b[3J\x1b[H"

// showShares shows one share at a time, and goes on when its owner has typed its end.
func (e *env) showShares(ctx context.Context, shares []*share.Share, code bool) error {
	defer fmt.Fprint(e.stdout, cleared)
	for _, s := range shares {
		fmt.Fprint(e.stdout, cleared)
		if err := e.showShare(s, code); err != nil {
			return err
		}
		if err := e.confirmShare(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// confirmShare asks for the last group of a share, so that nobody only presses Enter.
func (e *env) confirmShare(ctx context.Context, s *share.Share) error {
	line, err := s.Line()
	if err != nil {
		return err
	}
	defer line.Wipe()
	fmt.Fprintf(e.stdout, "\nShare %d of %d is for its owner alone.\n", s.Number, s.Total)
	if kept, err := e.confirmKept(ctx, line, share.GroupSize); err != nil || kept {
		return err
	}
	return &refusedError{text: fmt.Sprintf("not confirmed that share %d is kept; throw away the shares of splitting %s", s.Number, s.Set())}
}

func (e *env) showShare(s *share.Share, code bool) error {
	page, err := s.Page()
	if err != nil {
		return err
	}
	defer page.Wipe()
	if _, err := e.stdout.Write(page.Bytes()); err != nil {
		return fmt.Errorf("show share %d: %w", s.Number, err)
	}
	if !code {
		return nil
	}
	line, err := s.Line()
	if err != nil {
		return err
	}
	defer line.Wipe()
	fmt.Fprintln(e.stdout)
	return qr.Write(e.stdout, line, qr.Colored)
}

// writeShares makes all files or none.
func writeShares(dir string, shares []*share.Share) (paths []string, err error) {
	defer func() {
		for _, path := range paths {
			if err != nil {
				err = errors.Join(err, os.Remove(path))
			}
		}
	}()
	for _, s := range shares {
		page, err := s.Page()
		if err != nil {
			return paths, err
		}
		path := filepath.Join(dir, fmt.Sprintf("share-%d-of-%d.txt", s.Number, s.Total))
		err = newFile(path, page)
		page.Wipe()
		if err != nil {
			return paths, fmt.Errorf("write share %d: %w", s.Number, err)
		}
		paths = append(paths, path)
	}
	return paths, sys.SyncDir(dir)
}

// newFile writes a secret to a file that did not exist. The directory is the caller's to sync.
func newFile(path string, content *secret.Key) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return &existsError{fmt.Errorf("%s exists already and is never overwritten", path), nil}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(content.Bytes())
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}
