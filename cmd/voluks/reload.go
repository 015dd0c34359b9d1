// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/voluks/voluks/internal/kek/providers"
)

// hangups ends ctx at SIGHUP, which a terminal sends when it goes away, unless the command has something else to do then.
func (e *env) hangups(ctx context.Context, cancel context.CancelFunc) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	go func() {
		defer signal.Stop(hangups)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangups:
			}
			if reload := e.reload.Load(); reload != nil {
				(*reload)()
			} else {
				cancel()
			}
		}
	}()
}

// onHangup makes SIGHUP look at the configuration again. Each operation reads it anew anyway; what a reload is for is to hear at once whether it is
// right, instead of at the next mount. The socket alone cannot change while the agent runs.
func (e *env) onHangup(log *slog.Logger, socket string) {
	reload := func() {
		cfg, err := e.loadConfig()
		if err != nil {
			log.Error("the configuration is wrong; operations that need it fail until it is mended", "error", err)
			return
		}
		if err := providers.Check(providers.Open(cfg)); err != nil {
			log.Error("volumes cannot be opened", "error", err)
			return
		}
		if cfg.Docker.Socket != socket {
			log.Warn("the socket changes when the agent is restarted", "socket", cfg.Docker.Socket)
		}
		log.Info("the configuration is right, and used from now on", "provider", cfg.KEK.Provider)
	}
	e.reload.Store(&reload)
}
