// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/recovery/share"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
)

// maxSecret bounds what a person types or keeps in a file: an identity or a share, with its comments.
const maxSecret = 8 << 10

// readSecret reads all of r into locked memory.
func readSecret(r io.Reader) (*secret.Key, error) {
	room, err := secret.New(maxSecret + 1)
	if err != nil {
		return nil, err
	}
	defer room.Wipe()
	n, err := io.ReadFull(r, room.Bytes())
	switch {
	case err == nil:
		return nil, fmt.Errorf("more than %d bytes", maxSecret)
	case n == 0 && errors.Is(err, io.EOF):
		return nil, errEmpty
	case !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		return nil, err
	}
	return cut(room, n)
}

// cut copies the first n bytes of a key to one of that length.
func cut(room *secret.Key, n int) (*secret.Key, error) {
	k, err := secret.New(n)
	if err != nil {
		return nil, err
	}
	copy(k.Bytes(), room.Bytes())
	return k, nil
}

func secretFile(path string) (*secret.Key, error) {
	f, err := sys.OpenRegular(path, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	k, err := readSecret(f)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return k, nil
}

// secretLine reads one line that a person types, without its end, into locked memory. It is echoed: nobody types a hundred characters blindly.
func (e *env) secretLine(ctx context.Context) (*secret.Key, error) {
	room, err := secret.New(maxSecret)
	if err != nil {
		return nil, err
	}
	type outcome struct {
		n   int
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		// A byte at a time: what comes behind the line belongs to the next question.
		b := room.Bytes()
		for n := range b {
			if _, err := e.stdin.Read(b[n : n+1]); err != nil || b[n] == '\n' {
				done <- outcome{n, err}
				return
			}
		}
		done <- outcome{0, fmt.Errorf("more than %d bytes", maxSecret)}
	}()
	select {
	case o := <-done:
		defer room.Wipe()
		if o.err != nil {
			return nil, fmt.Errorf("read what is typed: %w", o.err)
		}
		if o.n == 0 {
			return nil, errNothingTyped
		}
		return cut(room, o.n)
	case <-ctx.Done():
		// The goroutine still writes into the memory, which the end of the process wipes.
		fmt.Fprintln(e.stdout)
		return nil, ctx.Err()
	}
}

// recoveryIdentityFlag is how commands that open something with the recovery identity are given it.
func recoveryIdentityFlag() *cli.StringFlag {
	return &cli.StringFlag{Name: "recovery-identity", Usage: "`FILE` with the recovery identity; - is standard input"}
}

// identities takes the recovery identity from a file, from standard input ("-"), or from a person who types it ("").
func (e *env) identities(ctx context.Context, path string) ([]recovery.Identity, error) {
	if path == "" && !e.interactive() {
		return nil, &refusedError{text: "there is no terminal to ask for the recovery identity on: name a file with --recovery-identity"}
	}
	text, err := e.identity(ctx, path)
	if err != nil {
		return nil, err
	}
	defer text.Wipe()
	identities, err := recovery.ParseIdentities(text)
	if err != nil {
		return nil, fmt.Errorf("read the recovery identity: %w", err)
	}
	return identities, nil
}

// identity takes the identity from a file, or from a person who types it.
func (e *env) identity(ctx context.Context, path string) (*secret.Key, error) {
	switch path {
	case "":
		fmt.Fprint(e.stdout, "The recovery identity (AGE-SECRET-KEY-...): ")
		return e.secretLine(ctx)
	case "-":
		return readSecret(e.stdin)
	}
	return secretFile(path)
}

var (
	errNothingTyped = errors.New("nothing was typed")
	errEmpty        = errors.New("it is empty")
)

// shares reads shares from files or, without any, from a person: so many as given, or with 0 as many as the first one says. The caller wipes them, also with
// an error.
func (e *env) shares(ctx context.Context, files []string, count int) ([]*share.Share, error) {
	if len(files) > 0 {
		return sharesOf(files)
	}
	if !e.interactive() {
		return nil, &refusedError{text: "there is no terminal to type shares on", retry: "voluks recovery combine --out FILE SHARE..."}
	}
	var shares []*share.Share
	for count == 0 && (len(shares) == 0 || len(shares) < shares[0].Needed) || len(shares) < count {
		if count == 0 && len(shares) > 0 {
			fmt.Fprintf(e.stdout, "\n%d of %d.", len(shares)+1, shares[0].Needed)
		}
		fmt.Fprintln(e.stdout, "\nType a share; spaces, dashes and case do not matter. An empty line ends it.")
		s, err := e.typedShare(ctx)
		if err == nil {
			if err = share.Check(shares, s); err != nil {
				s.Wipe()
			}
		}
		var typo *share.TypoError
		var wrong *share.Error
		switch {
		case err == nil:
			shares = append(shares, s)
			fmt.Fprintf(e.stdout, "Good: share %d of %d of the identity %s.\n", s.Number, s.Total, s.Fingerprint)
		case errors.As(err, &typo), errors.As(err, &wrong), errors.Is(err, share.ErrForged), errors.Is(err, share.ErrVersion):
			fmt.Fprintf(e.stdout, "Not taken: %v.\n", err)
		default:
			return shares, err
		}
	}
	return shares, nil
}

// typedShare reads the lines of one share up to an empty one.
func (e *env) typedShare(ctx context.Context) (*share.Share, error) {
	room, err := secret.New(maxSecret)
	if err != nil {
		return nil, err
	}
	defer room.Wipe()
	n := 0
	for {
		line, err := e.secretLine(ctx)
		if errors.Is(err, errNothingTyped) && n > 0 {
			break
		}
		if err != nil {
			return nil, err
		}
		if n+line.Len()+1 > room.Len() {
			line.Wipe()
			return nil, fmt.Errorf("more than %d bytes", maxSecret)
		}
		n += copy(room.Bytes()[n:], line.Bytes())
		n += copy(room.Bytes()[n:], "\n")
		line.Wipe()
	}
	return share.Parse(room.Bytes()[:n])
}

func sharesOf(files []string) ([]*share.Share, error) {
	var shares []*share.Share
	var errs []error
	for _, path := range files {
		text, err := secretFile(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s, err := share.Parse(text.Bytes())
		text.Wipe()
		if err != nil {
			errs = append(errs, &shareError{file: filepath.Clean(path), err: err})
			continue
		}
		shares = append(shares, s)
	}
	return shares, errors.Join(errs...)
}
