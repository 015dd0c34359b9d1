// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/keysocket"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/systemd"
)

func bootKeyCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "key",
		Usage: "give systemd-cryptsetup a key, as voluks-keys@.service does",
		Description: `Answers the one connection that systemd hands over with the key of the device
that the other end names.

   voluks boot key --timeout 90s`,
		Hidden: true,
		Flags:  []cli.Flag{&cli.DurationFlag{Name: "timeout", Value: 90 * time.Second, Usage: "wait `TIME` for the key"}},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return e.bootKey(c.Context, c.Duration("timeout"))
		},
	}
}

// keySocket is where the key socket is, below --root.
func (e *env) keySocket() string { return filepath.Join("/", e.root, keysocket.Path) }

func (e *env) bootKey(ctx context.Context, timeout time.Duration) error {
	if err := sys.Harden(); err != nil {
		return err
	}
	conn, err := systemd.Connection()
	if err != nil {
		return err
	}
	log := e.logger()
	return keysocket.Answer(ctx, conn, keysocket.Options{
		Crypttab: filepath.Join("/", e.root, "etc/crypttab"),
		Socket:   e.keySocket(),
		Log:      log,
		Unlock: func(ctx context.Context, device, uuid string) (key *secret.Key, err error) {
			err = persist(ctx, timeout, func() error {
				key, err = e.adoptedKey(ctx, device, uuid)
				return err
			}, func(err error, left time.Duration) {
				log.Info("waiting for the key", "device", device, "error", err, "left", left.Round(time.Second))
			})
			return key, err
		},
	})
}

// adoptedKey gets the key of a device's agent slot, which the caller wipes. That it opens the slot is tried here, and so is the header: systemd-cryptsetup
// would open one with a cipher that encrypts nothing (F48).
func (e *env) adoptedKey(ctx context.Context, device, uuid string) (*secret.Key, error) {
	cfg, err := e.loadConfig()
	if err != nil {
		return nil, err
	}
	keys, err := keyslot.OpenKeyring(cfg)
	if err != nil {
		return nil, err
	}
	c := luks.Foreign(device)
	h, err := c.Header()
	if err != nil {
		return nil, err
	}
	if uuid != "" && !strings.EqualFold(h.UUID, uuid) {
		return nil, fmt.Errorf("the container on %s is %s, not %s", device, h.UUID, uuid)
	}
	for _, token := range h.Tokens {
		if token.Type == keyslot.TypeVolume {
			// Opened twice, its file system would be destroyed.
			return nil, fmt.Errorf("the container on %s is a volume, which voluks opens itself: take its line out of crypttab", device)
		}
	}
	slot, key, err := keyslot.Unlock(ctx, c, keys)
	if err != nil {
		return nil, err
	}
	if err := c.TestSlot(slot, key); err != nil {
		key.Wipe()
		return nil, err
	}
	return key, nil
}
