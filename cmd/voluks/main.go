// SPDX-License-Identifier: Apache-2.0

// Command voluks manages encrypted volumes: the agent behind Docker's volume driver, and the command line of the administrator.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/voluks/voluks/internal/sys"
)

// main hardens the process whatever it is for: init shows the identity that opens everything, and no crash may write it to a core file.
func main() {
	e := newEnv()
	if err := sys.Harden(); err != nil {
		e.report(err)
		os.Exit(exitCode(err))
	}
	os.Exit(run(os.Args, e))
}

// run is the whole program; the exit status is the return value.
func run(args []string, e *env) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, hangup := context.WithCancel(ctx)
	defer hangup()
	e.hangups(ctx, hangup)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	err := runApp(ctx, asHelper(args), e)
	if ctx.Err() != nil && err != nil {
		err = &interruptedError{err}
	}
	if err != nil {
		e.report(err)
	}
	return exitCode(err)
}
