// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/systemd"
)

// askTime bounds one question for a key.
const askTime = 30 * time.Second

func bootWaitCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "wait",
		Usage: "wait until the volumes can be unlocked, as voluks-gate.service does",
		Description: `Ends as soon as every key that volumes of this node are wrapped with can be had, or when the
time is over. What waiting does not mend, such as a damaged header, is not waited for.

   voluks boot wait --timeout 90s`,
		Hidden: true,
		Flags:  []cli.Flag{&cli.DurationFlag{Name: "timeout", Value: 90 * time.Second, Usage: "wait at most `TIME`"}},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return e.bootWait(c.Context, c.Duration("timeout"))
		},
	}
}

func (e *env) bootWait(ctx context.Context, timeout time.Duration) error {
	ctx, cancel, m, err := e.operator(ctx, volume.Defaults{})
	if err != nil {
		return err
	}
	defer cancel()
	log := e.logger()
	notify := systemd.Notifier{Log: log}
	g := gate{m: m, log: log, said: map[string]bool{}}
	err = persist(ctx, timeout, func() error { return g.look(ctx) }, func(err error, left time.Duration) {
		log.Info("waiting for keys", "error", err, "left", left.Round(time.Second))
		notify.Status("%v", err)
	})
	if err != nil {
		return err
	}
	return e.print(map[string]int{"volumes": g.volumes}, func(w io.Writer) { fmt.Fprintf(w, "%d volumes can be unlocked\n", g.volumes) })
}

// gate looks whether volumes can be unlocked.
type gate struct {
	m   asker
	log *slog.Logger

	mu      sync.Mutex
	volumes int
	said    map[string]bool // volumes of which was said what is wrong with them
}

// asker is what gate needs of a volume.Manager.
type asker interface {
	List(context.Context) ([]volume.Info, error)
	Unlockable(ctx context.Context, name string) error
}

// look asks once for each key that volumes are wrapped with: which volume it is asked for makes no difference to whether it is there. It returns the
// reasons why keys are missing that may still come.
func (g *gate) look(ctx context.Context) error {
	infos, err := g.m.List(ctx)
	if err != nil {
		return err
	}
	g.volumes = 0
	groups := byKey(infos, func(i volume.Info) bool { return i.State == volume.StateReady || i.State == volume.StateLocked })
	var errs []error
	var wg sync.WaitGroup
	for _, group := range groups {
		g.volumes += len(group)
		wg.Go(func() {
			if err := g.key(ctx, group); err != nil {
				g.mu.Lock()
				errs = append(errs, err)
				g.mu.Unlock()
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// key asks for the key of some volumes, for one after the other until there is an answer about the key.
func (g *gate) key(ctx context.Context, group []volume.Info) error {
	for _, info := range group {
		name := info.Name
		ask, cancel := context.WithTimeout(ctx, askTime)
		err := g.m.Unlockable(ask, name)
		cancel()
		if err == nil || kek.MayPass(err) {
			return err
		}
		g.mu.Lock()
		if !g.said[name] {
			g.said[name] = true
			g.log.Warn("a volume cannot be unlocked, and waiting will not mend it", "volume", name, "error", strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		g.mu.Unlock()
	}
	return nil
}
