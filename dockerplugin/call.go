// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"

	"github.com/voluks/voluks/internal/volume"
)

// call is what an operation turned out to be once the library had decoded it.
type call struct {
	*operation
	verb string // "mount"
	name string // of the volume, as the client wrote it
	log  *slog.Logger
}

// run does the work of one call: it waits for the agent to be ready, turns a panic into an error, and makes the error public. If
// nobody will hear of a success, since the client hung up or was told that it took too long, undo gets its turn.
func (o *operation) run(verb, name string, ready <-chan struct{}, work func(c *call) error, undo func() error) error {
	shown := name[:min(len(name), 300)] // a valid one is shorter
	c := &call{operation: o, verb: verb, name: shown, log: o.log.With("call", verb, "volume", shown)}
	err := c.guarded(func() error {
		if err := c.wait(ready); err != nil {
			return err
		}
		return work(c)
	})
	if c.finish() && !errors.Is(c.ctx.Err(), context.Canceled) {
		return c.public(err)
	}
	c.log.Warn("the client gave up before the call ended", "error", err)
	if err == nil && undo != nil {
		if err := c.guarded(undo); err != nil {
			c.log.Error("undo what nobody heard of", "error", err)
		}
	}
	return err
}

func (c *call) guarded(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("panic", "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f()
}

// wait lets the request wait while the agent looks through its volumes after a start. Refusing instead would leave containers that Docker starts
// at that moment down for ever.
func (c *call) wait(ready <-chan struct{}) error {
	if ready == nil {
		return nil
	}
	select {
	case <-ready:
		return nil
	case <-c.ctx.Done():
		return c.failed(volume.CodeTimeout, errors.New("the agent has just started and is still looking through its volumes; try again"))
	}
}

func (c *call) failed(code volume.Code, err error) error {
	return &volume.Error{Code: code, Op: c.verb, Volume: c.name, Err: err}
}

// public turns an error into the text that leaves the host, and logs the error in full. Errors of the volumes are written for
// people and hold no secret; of anything else only the operation's id goes out, under which the log has the rest.
func (c *call) public(err error) error {
	if err == nil {
		return nil
	}
	code := volume.CodeOf(err)
	level := slog.LevelError
	switch code {
	case volume.CodeNotFound:
		level = slog.LevelDebug // Docker asks for each name before it creates it
	case volume.CodeInvalid, volume.CodeExists, volume.CodeInUse:
		level = slog.LevelWarn
	}
	c.log.Log(c.ctx, level, "request failed", "code", string(code), "error", err)
	switch code {
	case volume.CodeInternal:
		what := c.verb
		if c.name != "" {
			what += fmt.Sprintf(" volume %q", c.name)
		}
		return fmt.Errorf("%s: internal error; the log of voluks has it as operation %s", what, c.id)
	case volume.CodeInvalid, volume.CodeNotFound, volume.CodeExists:
		return err // the text alone says what to do
	default:
		return fmt.Errorf("%w (operation %s)", err, c.id)
	}
}
