// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/voluks/voluks/internal/atomicfile"
	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
)

// commandTime bounds what a person starts. mkfs on a slow disk takes minutes.
const commandTime = 15 * time.Minute

// keyPatience is how long a key provider that cannot be asked is asked again, while a person or a container waits for the volume. It leaves room below
// what Docker waits.
const keyPatience = 30 * time.Second

// loadConfig reads the configuration; *setupError if there is none.
func (e *env) loadConfig() (config.Config, error) {
	const largest = 1 << 20
	data, err := atomicfile.Read(e.configFile(), largest)
	if errors.Is(err, fs.ErrNotExist) {
		return config.Config{}, &setupError{fmt.Errorf("this node is not set up: there is no %s", e.configFile())}
	}
	if err != nil {
		return config.Config{}, fmt.Errorf("read the configuration: %w", err)
	}
	return config.Parse(e.configFile(), data, e.paths())
}

// manager opens the volumes of this node. It needs no configuration: a node whose configuration is broken can still list and close its volumes, and
// what needs keys reads the configuration then.
func (e *env) manager(log *slog.Logger, d volume.Defaults) *volume.Manager {
	return e.managerWith(log, d, nil)
}

// managerWith is manager for one who lends recovery identities.
func (e *env) managerWith(log *slog.Logger, d volume.Defaults, identities []recovery.Identity) *volume.Manager {
	return volume.New(volume.Options{
		Identities: identities,
		DrillEvery: func() time.Duration {
			cfg, err := e.loadConfig()
			if err != nil {
				return 0 // doctor says so
			}
			return cfg.Recovery.Drill
		},
		Paths:    e.paths(),
		Defaults: d,
		Storage:  volume.NewStorage(volume.StorageOptions{Log: log}),
		Keyring: func(context.Context) (*keyslot.Keyring, error) {
			cfg, err := e.loadConfig()
			if err != nil {
				return nil, &volume.Error{Code: volume.CodeConfig, Err: err}
			}
			k, err := keyslot.OpenKeyring(cfg)
			if err == nil && !e.impatient {
				k.KEK.Patience = keyPatience
			}
			return k, err
		},
		Backups: e.backups(),
		Log:     log,
	})
}

// makeState makes the directory of the node's state, for commands that work without any volume.
func (e *env) makeState() error {
	if err := os.MkdirAll(filepath.Dir(e.paths().State), 0o755); err != nil {
		return err
	}
	return os.MkdirAll(e.paths().State, 0o711)
}

// backups are where this node keeps those of headers.
func (e *env) backups() volume.HeaderBackups {
	return volume.HeaderBackups{
		Dir: filepath.Join(e.paths().State, "backups"),
		Second: func() (string, error) {
			cfg, err := e.loadConfig()
			return cfg.Backup.Directory, err
		},
	}
}

func defaults(cfg config.Config) volume.Defaults {
	workqueue := cfg.Volumes.Workqueue
	if workqueue == "auto" {
		workqueue = ""
	}
	return volume.Defaults{
		Workqueue: workqueue,
		Size:      cfg.Volumes.DefaultSize, FS: cfg.Volumes.DefaultFS, Overcommit: cfg.Volumes.Overcommit,
		Devices: cfg.Backing.Devices, VolumeGroups: cfg.Backing.VolumeGroups,
	}
}

// operator is what a command that changes volumes works with: this process does the work itself, and so must not leave a core dump of the keys.
func (e *env) operator(ctx context.Context, d volume.Defaults, identities ...recovery.Identity) (context.Context, context.CancelFunc, *volume.Manager, error) {
	if err := sys.Harden(); err != nil {
		return nil, nil, nil, err
	}
	// A shell may stand in the volume that is to be closed; this process must not.
	if err := os.Chdir("/"); err != nil {
		return nil, nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTime)
	return ctx, cancel, e.managerWith(e.quiet(), d, identities), nil
}
