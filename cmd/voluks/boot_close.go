// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/worker"
	"github.com/voluks/voluks/systemd"
)

func bootCloseCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "close",
		Usage: "close all volumes, as voluks-shutdown.service does",
		Description: `Forgets all holders and closes every volume as soon as the kernel lets go of it. It is for the
end of the system, when whoever used the volumes is gone or going.

   voluks boot close --timeout 60s`,
		Hidden: true,
		Flags:  []cli.Flag{&cli.DurationFlag{Name: "timeout", Value: time.Minute, Usage: "try for `TIME`"}},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return e.bootClose(c.Context, c.Duration("timeout"))
		},
	}
}

func (e *env) bootClose(ctx context.Context, timeout time.Duration) error {
	if err := sys.Harden(); err != nil {
		return err
	}
	log := e.logger()
	// Workers, so that a device that does not answer keeps its own volume alone from being closed.
	workers := worker.NewClient(worker.Options{
		Manager: e.manager(log, volume.Defaults{}),
		Command: append(append([]string{"/proc/self/exe"}, e.globals()...), "worker"),
		Log:     log,
	})
	defer workers.Close()
	notify := systemd.Notifier{Log: log}
	wait, stop := context.WithTimeout(ctx, timeout)
	defer stop()
	go extend(wait, notify)
	var kept error // why not all could be closed, as of the last try that came to its end
	err := persist(ctx, timeout, func() error { return errors.Join(e.unmountBoot(), closeAll(wait, workers)) }, func(err error, left time.Duration) {
		kept = err
		notify.Status("closing: %v", err)
	})
	if err != nil && wait.Err() != nil && kept != nil {
		return kept
	}
	return err
}

// unmountBoot takes off the mounts of boot enable that systemd could not, since somebody used them then.
func (e *env) unmountBoot() error {
	all, err := systemd.BootMounts(e.bootDir())
	if err != nil {
		return err
	}
	var errs []error
	for _, b := range all {
		where := filepath.Join("/", e.root, b.Where)
		top, err := topMount(where)
		if err == nil && top != nil && strings.HasPrefix(top.Source, "/dev/mapper/voluks-") {
			err = sys.Unmount(where)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// closer is what closeAll needs of a worker.Client.
type closer interface {
	List(context.Context) ([]volume.Info, error)
	Unsettled(context.Context) ([]string, error)
	Unmount(ctx context.Context, name, holderID string) error
	Settle(ctx context.Context, name string) error
}

// closeAll closes what can be closed now. The error joins what keeps each of the others.
func closeAll(ctx context.Context, m closer) error {
	infos, err := m.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	var mu sync.Mutex
	var wg sync.WaitGroup
	each := func(f func() error) {
		wg.Go(func() {
			if err := f(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	held := map[string]bool{}
	for _, info := range infos {
		if len(info.Holders) == 0 {
			continue
		}
		held[info.Name] = true
		each(func() (err error) {
			for _, h := range info.Holders {
				err = m.Unmount(ctx, info.Name, h.ID) // with the last one it is closed
			}
			return err
		})
	}
	names, err := m.Unsettled(ctx)
	if err != nil {
		errs = append(errs, err)
	}
	for _, name := range names {
		if !held[name] {
			each(func() error { return m.Settle(ctx, name) })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}
