// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// interactive tells whether a person sits at both ends.
func (e *env) interactive() bool {
	out, ok := e.stdout.(*os.File)
	return !e.json && ok && isTerminal(e.stdin) && isTerminal(out)
}

func isTerminal(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }

// ask shows a question and returns the line that was typed, without its end. An end of input is an empty line. It returns early when ctx ends.
func (e *env) ask(ctx context.Context, question string) (string, error) {
	fmt.Fprint(e.stdout, question)
	type answer struct {
		line string
		err  error
	}
	// The goroutine stays behind if ctx ends: the process does too.
	answers := make(chan answer, 1)
	go func() {
		line, err := bufio.NewReader(e.stdin).ReadString('\n')
		if errors.Is(err, io.EOF) {
			fmt.Fprintln(e.stdout)
			err = nil
		}
		answers <- answer{strings.TrimSpace(line), err}
	}()
	select {
	case a := <-answers:
		if a.err != nil {
			return "", fmt.Errorf("read the answer: %w", a.err)
		}
		return a.line, nil
	case <-ctx.Done():
		fmt.Fprintln(e.stdout)
		return "", ctx.Err()
	}
}

// confirm is the one way in which something destructive is agreed to: by force, or by a person who types y. Without a terminal nobody was asked,
// and that is a refusal. retry is the command line that does it without asking.
func (e *env) confirm(ctx context.Context, force bool, question, retry string) error {
	if force {
		return nil
	}
	if !e.interactive() {
		return &refusedError{text: "not confirmed: there is no terminal to ask on", retry: retry}
	}
	answer, err := e.ask(ctx, question+" [y/N] ")
	if err != nil {
		return err
	}
	if a := strings.ToLower(answer); a != "y" && a != "yes" {
		return &refusedError{text: "not confirmed"}
	}
	return nil
}
