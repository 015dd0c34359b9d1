// SPDX-License-Identifier: Apache-2.0

// Package tool runs the external programs that voluks needs: mkfs, blkid. They get no input, a plain environment and a deadline.
package tool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/sys"
)

// MissingError means that a program is not installed.
type MissingError struct {
	Tool    string // its name
	Package string // what Debian calls the package that has it
}

// Error implements error.
func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is not installed: install the package %s", e.Tool, e.Package)
}

// ExitError means that a program ran and ended with a status other than 0.
type ExitError struct {
	Tool   string // its name
	Code   int    // -1 if a signal ended it
	Stderr string // the end of what it said, in one line
}

// Error implements error.
func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit status %d", e.Code)
	if e.Code < 0 {
		how = "ended by a signal"
	}
	if e.Stderr == "" {
		return e.Tool + ": " + how
	}
	return fmt.Sprintf("%s: %s: %s", e.Tool, how, e.Stderr)
}

// Limits.
const (
	defaultTimeout = 10 * time.Minute // if the caller's context has no deadline
	keepOutput     = 64 << 10
	keepInError    = 400
)

// Find returns the path of a program: from PATH, then from the sbin directories, which not every PATH has. *MissingError if it is nowhere.
func Find(name, pkg string) (string, error) {
	dirs := append(filepath.SplitList(os.Getenv("PATH")), "/usr/sbin", "/sbin", "/usr/bin", "/bin")
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) {
			continue
		}
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", &MissingError{Tool: name, Package: pkg}
}

// Command is a program with all that it gets.
type Command struct {
	Path  string     // of the program
	Args  []string   // without the program's name
	Files []*os.File // inherited as descriptors 3, 4, ...: locks among them stay held until it ends, even if this process is killed before
	Env   []string   // beyond PATH, LANG and LC_ALL
	Hide  []string   // files and directories that are empty for it; needs CAP_SYS_ADMIN
}

// Run runs the command, which has no input, and returns its standard output. A status other than 0 is an *ExitError, with the output. At the end of ctx,
// or after 10 minutes, the program is killed; then the error wraps the context's.
func Run(ctx context.Context, c Command) ([]byte, error) {
	name := filepath.Base(c.Path)
	ctx, cancel := context.WithTimeout(ctx, defaultTimeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, context.Cause(ctx))
	}
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "LANG=C"}, c.Env...)
	cmd.ExtraFiles = c.Files
	cmd.WaitDelay = time.Second // for the pipes, should it leave a child behind
	var stdout, stderr tail
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := cmd.Start
	if len(c.Hide) > 0 {
		start = func() error { return sys.WithHidden(c.Hide, cmd.Start) }
	}
	err := start()
	if err == nil {
		err = cmd.Wait()
	}
	if err == nil {
		return stdout.b, nil
	}
	if ctx.Err() != nil {
		return stdout.b, fmt.Errorf("%s: %w", name, context.Cause(ctx))
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return stdout.b, &ExitError{Tool: name, Code: exit.ExitCode(), Stderr: stderr.line()}
	}
	return stdout.b, fmt.Errorf("%s: %w", name, err)
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if over := len(t.b) - keepOutput; over > 0 {
		t.b = t.b[:copy(t.b, t.b[over:])]
	}
	return len(p), nil
}

func (t *tail) line() string {
	s := strings.Join(strings.Fields(string(bytes.ToValidUTF8(t.b, []byte("?")))), " ")
	if len(s) > keepInError {
		s = "..." + s[len(s)-keepInError:]
	}
	return s
}
