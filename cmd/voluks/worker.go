// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/worker"
)

func workerCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:        "worker",
		Usage:       "one operation for the agent, which starts this itself",
		Description: "Reads one request of the agent from descriptor 3, does it, answers on descriptor 4, and ends.",
		Hidden:      true,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			log := e.workerLogger()
			return worker.Main(c.Context, func(_ context.Context, identities []recovery.Identity) (*volume.Manager, error) {
				cfg, err := e.loadConfig()
				if err != nil {
					// What needs no configuration, such as unmounting, is still done; the rest finds the same error when it asks for keys.
					return e.managerWith(log, volume.Defaults{}, identities), nil
				}
				return e.managerWith(log, defaults(cfg), identities), nil
			})
		},
	}
}
