// SPDX-License-Identifier: Apache-2.0

// Package subprocess runs the programs that some key providers are made of, for one request each: secrets go in and out by pipes, straight between
// the kernel and locked memory, and nothing that the program does can cost more than a deadline and a few KiB.
package subprocess

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/voluks/voluks/internal/kek/wire"
)

const (
	// maxStderr is how much of what a program complains is kept.
	maxStderr = 4 << 10
	// maxNoise is how much it may complain before it counts as gone mad.
	maxNoise = 1 << 20
	// grace is how long the pipes may stay open after the program has ended, or has been killed.
	grace = 2 * time.Second
)

var (
	// ErrFlood means that the program wrote more than an answer can be long.
	ErrFlood = errors.New("wrote more than an answer can be long")
	// ErrLeftOpen means that the program ended but something that it started still holds its output.
	ErrLeftOpen = errors.New("ended, but left a process behind that holds its output")
)

// ExitError means that the program ran and said no.
type ExitError struct {
	Code   int            // exit status, -1 if a signal ended it
	Signal syscall.Signal // 0 unless a signal ended it
	Stderr string         // one line, at most 4 KiB, without what could be a key
}

// Error implements error.
func (e *ExitError) Error() string {
	text := fmt.Sprintf("exit status %d", e.Code)
	if e.Signal != 0 {
		text = "ended by signal: " + e.Signal.String()
	}
	if e.Stderr != "" {
		text += ": " + e.Stderr
	}
	return text
}

// Cmd is one run of a program.
type Cmd struct {
	// Argv is the program, by absolute path, and its arguments. Everybody on the node can read them.
	Argv []string
	// Env is the whole environment.
	Env []string
	// Stdin is borrowed. Nil is an empty input.
	Stdin []byte
	// MaxOut bounds the answer in bytes.
	MaxOut int
}

// Env is an environment of a search path, words in English, and those of our own variables that have one of the names.
func Env(path string, names ...string) []string {
	env := []string{"PATH=" + path, "LC_ALL=C"}
	for _, name := range names {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// Run runs the program and returns what it wrote to its standard output, in locked memory that the caller wipes. The program has a
// session of its own, so it cannot ask a terminal, and the whole of it is killed when ctx ends; then the error wraps ctx.Err(). Other errors are
// *ExitError, ErrFlood, ErrLeftOpen, and what os/exec says of a program that cannot be started.
func (c Cmd) Run(ctx context.Context) (*wire.Buffer, error) {
	out, err := c.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Argv[0], err)
	}
	return out, nil
}

func (c Cmd) run(ctx context.Context) (*wire.Buffer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cmd := exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	cmd.Env = c.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error {
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); !errors.Is(err, syscall.ESRCH) {
			return err
		}
		return os.ErrProcessDone
	}
	pipes, err := start(cmd)
	if err != nil {
		return nil, err
	}
	defer pipes.close()

	written, answered, complained := make(chan struct{}), make(chan answer, 1), make(chan complaint, 1)
	go func() {
		defer close(written)
		// A program that does not read its input to the end has its own reasons; its answer is what counts.
		_, _ = pipes.in.Write(c.Stdin)
		_ = pipes.in.Close()
	}()
	go func() {
		out, err := wire.Read(pipes.out, c.MaxOut)
		if errors.Is(err, wire.ErrTooLong) {
			cancel(ErrFlood)
		}
		answered <- answer{out, err}
	}()
	go func() {
		said := listen(pipes.err)
		if said.flood {
			cancel(ErrFlood)
		}
		complained <- said
	}()

	ended := cmd.Wait()
	pipes.deadline(time.Now().Add(grace))
	<-written
	got, said := <-answered, <-complained
	if err := verdict(ctx, ended, got.err, said.text); err != nil {
		got.out.Wipe()
		return nil, err
	}
	return got.out, nil
}

type answer struct {
	out *wire.Buffer
	err error
}

// verdict says what a run that is over came to.
func verdict(ctx context.Context, ended, answer error, stderr string) error {
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		cause := context.Cause(ctx)
		if stderr != "" && !errors.Is(cause, ErrFlood) {
			return fmt.Errorf("killed: %w; it said: %s", cause, stderr)
		}
		return fmt.Errorf("killed: %w", cause)
	case errors.As(ended, &exit):
		e := &ExitError{Code: exit.ExitCode(), Stderr: stderr}
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			e.Signal = status.Signal()
		}
		return e
	case ended != nil:
		return ended
	case errors.Is(answer, os.ErrDeadlineExceeded):
		return ErrLeftOpen
	}
	return answer
}

// pipes are our ends.
type pipes struct{ in, out, err *os.File }

func start(cmd *exec.Cmd) (ours pipes, err error) {
	var theirs []*os.File
	defer func() {
		for _, f := range theirs {
			_ = f.Close()
		}
		if err != nil {
			ours.close()
		}
	}()
	pipe := func() (r, w *os.File) {
		if err == nil {
			r, w, err = os.Pipe()
		}
		return r, w
	}
	var stdin, stdout, stderr *os.File
	stdin, ours.in = pipe()
	ours.out, stdout = pipe()
	ours.err, stderr = pipe()
	theirs = []*os.File{stdin, stdout, stderr}
	if err != nil {
		return ours, err
	}
	// Files, not readers and writers: os/exec would copy through buffers of its own.
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	return ours, cmd.Start()
}

func (p pipes) deadline(t time.Time) {
	for _, f := range []*os.File{p.in, p.out, p.err} {
		_ = f.SetDeadline(t) // of the writing end it may be closed already
	}
}

func (p pipes) close() {
	for _, f := range []*os.File{p.in, p.out, p.err} {
		_ = f.Close()
	}
}

type complaint struct {
	text  string
	flood bool
}

// listen keeps the beginning of what a program says and lets it talk on, up to a point.
func listen(r io.Reader) complaint {
	kept, err := io.ReadAll(io.LimitReader(r, maxStderr))
	said := complaint{text: wire.Text(kept)}
	if err == nil {
		n, _ := io.Copy(io.Discard, io.LimitReader(r, maxNoise))
		said.flood = n == maxNoise
	}
	return said
}
