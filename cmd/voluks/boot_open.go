// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/systemd"
)

const (
	// extendBy is how long systemd is told to wait on, and extendEvery how often.
	extendBy    = 30 * time.Second
	extendEvery = 10 * time.Second
	// lastTry is how long opening may take once the time to wait for the key is over.
	lastTry = 2 * time.Minute
	// longestRelease is how long closing may take.
	longestRelease = 5 * time.Minute
	// longestPause bounds the pauses between two questions for a key: at boot a machine waits.
	longestPause = 5 * time.Second
)

func bootOpenCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "open",
		Usage:     "open a volume for units of the host, as voluks-volume@NAME.service does",
		ArgsUsage: "NAME",
		Description: `Opens the volume and holds it for the unit. While its key may still come it waits.

   voluks boot open --timeout 60s pg`,
		Hidden: true,
		Flags:  []cli.Flag{&cli.DurationFlag{Name: "timeout", Value: time.Minute, Usage: "wait `TIME` for the key"}},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			return e.bootOpen(c.Context, args[0], c.Duration("timeout"))
		},
	}
}

func (e *env) bootOpen(ctx context.Context, name string, timeout time.Duration) error {
	ctx, cancel, m, err := e.operator(ctx, volume.Defaults{})
	if err != nil {
		return err
	}
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, timeout+lastTry)
	defer cancel()
	e.impatient = true
	turn := e.turn()
	log := e.logger()
	notify := systemd.Notifier{Log: log}
	go extend(ctx, notify)
	return persist(ctx, timeout, func() error {
		_, err := m.Mount(ctx, name, bootHolder(name))
		return err
	}, func(err error, left time.Duration) {
		turn.Close()
		log.Info("waiting for the key", "volume", name, "error", err, "left", left.Round(time.Second))
		notify.Status("waiting for the key of %s: %v", name, err)
	})
}

// extend keeps systemd from giving up as long as ctx lives.
func extend(ctx context.Context, n systemd.Notifier) {
	for {
		n.ExtendTimeout(extendBy)
		select {
		case <-ctx.Done():
			return
		case <-time.After(extendEvery):
		}
	}
}

// persist tries, and tries again for that long while the error may pass by itself: a key service that is not there yet, a volume that somebody is
// busy with. Before each pause it calls tell with the time that is left.
func persist(ctx context.Context, timeout time.Duration, try func() error, tell func(error, time.Duration)) error {
	end := time.Now().Add(timeout)
	var backoff kek.Backoff
	for {
		err := try()
		left := time.Until(end)
		if err == nil || left <= 0 || !kek.MayPass(err) && !errors.Is(err, volume.ErrBusy) {
			return err
		}
		tell(err, left)
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(min(backoff.Next(), longestPause, left)):
		}
	}
}

func bootReleaseCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "release",
		Usage:     "give back what open holds, as voluks-volume@NAME.service does",
		ArgsUsage: "NAME",
		Description: `Takes the unit's holder from the volume and closes it if nobody else has it. If somebody does,
the agent closes it later.

   voluks boot release pg`,
		Hidden: true,
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			return e.bootRelease(c.Context, args[0])
		},
	}
}

func (e *env) bootRelease(ctx context.Context, name string) error {
	ctx, cancel, m, err := e.operator(ctx, volume.Defaults{})
	if err != nil {
		return err
	}
	defer cancel()
	// What is still to be written may take its time.
	ctx, stop := context.WithTimeout(ctx, longestRelease)
	defer stop()
	e.turn()
	go extend(ctx, systemd.Notifier{Log: e.logger()})
	var held *volume.HeldError
	err = m.Unmount(ctx, name, bootHolder(name).ID)
	switch {
	case errors.Is(err, volume.ErrNotFound):
		return nil // removed by force; there is nothing to give back
	case errors.As(err, &held) && held.Closing:
		e.logger().Warn("the volume stays open", "volume", name, "error", err)
		return nil
	case err != nil:
		return fmt.Errorf("release: %w", err)
	}
	return nil
}
