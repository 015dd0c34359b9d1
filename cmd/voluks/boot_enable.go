// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/systemd"
)

func bootEnableCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "enable",
		Usage:     "open a volume at boot and mount it for services of the host",
		ArgsUsage: "NAME",
		Description: `Writes a mount unit, so that the volume is opened and its data mounted at PATH at each boot.
A service waits for it with RequiresMountsFor=PATH in its unit, and does not start without it.
While the volume is not mounted nothing can be written at PATH.

If the key does not come in time the mount fails, and so do the services that need it; the boot
goes on. With --nofail the boot does not wait for it either.

   voluks boot enable pg --mount /srv/pg --now
   systemctl edit postgresql.service        [Unit] RequiresMountsFor=/srv/pg`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "mount", Usage: "mount the data at `PATH`"},
			&cli.BoolFlag{Name: "nofail", Usage: "let the boot go on without waiting", DisableDefaultText: true},
			&cli.DurationFlag{Name: "timeout", Value: time.Minute, Usage: "wait `TIME` for the key, such as 90s or 5m"},
			&cli.BoolFlag{Name: "now", Usage: "mount it now too", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			if c.String("mount") == "" {
				return &usageError{c.Command.HelpName, "--mount is missing: where services find the data"}
			}
			b := systemd.BootMount{Volume: args[0], Where: c.String("mount"), NoFail: c.Bool("nofail"), Timeout: c.Duration("timeout")}
			if _, err := b.Units(); err != nil {
				return &usageError{c.Command.HelpName, err.Error()}
			}
			return e.bootEnable(c.Context, b, c.Bool("now"))
		},
	}
}

// bootMount is a boot mount as it is shown.
type bootMount struct {
	Volume  string `json:"volume"`
	Path    string `json:"path"`
	Unit    string `json:"unit"`
	NoFail  bool   `json:"nofail"`
	Timeout string `json:"timeout"`
	Network bool   `json:"network"` // its key comes over the network
	Mounted bool   `json:"mounted"`
}

func (e *env) bootEnable(ctx context.Context, b systemd.BootMount, now bool) error {
	cfg, err := e.loadConfig()
	if err != nil {
		return err
	}
	b.Network = overNetwork(cfg)
	info, err := e.manager(e.quiet(), volume.Defaults{}).Inspect(ctx, b.Volume)
	if err != nil {
		return err
	}
	if !info.Finished() {
		return &volume.Error{Code: volume.CodeUnfinished, Op: "enable", Volume: b.Volume, Err: errors.New("its creation was interrupted")}
	}
	immutable, err := e.bareDirectory(b.Where)
	if err != nil {
		return err
	}
	err = b.Enable(e.bootDir())
	if errors.Is(err, systemd.ErrOtherUnit) {
		return &existsError{err, []string{"systemctl cat " + b.Name(), "choose another --mount"}}
	}
	if err != nil {
		return err
	}
	if e.live() {
		if _, err := systemd.Control(ctx, "daemon-reload"); err != nil {
			return err
		}
		if now {
			if _, err := systemd.Control(ctx, "start", b.Name()); err != nil {
				return err
			}
		}
	}
	if !immutable {
		e.warn("%s cannot be made immutable: while the volume is not mounted, root can write plaintext there", b.Where)
	}
	mounts, err := e.shown([]systemd.BootMount{b})
	if err != nil {
		return err
	}
	return e.print(mounts[0], func(w io.Writer) {
		fmt.Fprintf(w, "enabled %s: mounted at %s at boot, by %s\na service waits for it with: RequiresMountsFor=%s\n", b.Volume, b.Where, b.Name(), b.Where)
		if !mounts[0].Mounted {
			fmt.Fprintf(w, "mount it now: systemctl start %s\n", shellQuote(b.Name()))
		}
	})
}

// bareDirectory makes the directory that is mounted on, in which nothing can be written. What is mounted already is left as it is.
func (e *env) bareDirectory(where string) (immutable bool, err error) {
	path := filepath.Join("/", e.root, where)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return false, fmt.Errorf("make mountpoint: %w", err)
	}
	immutable, err = filesystem.MakeBare(path)
	if errors.Is(err, filesystem.ErrMounted) {
		return true, nil
	}
	return immutable, err
}

func bootDisableCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "disable",
		Usage:     "no longer open a volume at boot",
		ArgsUsage: "NAME",
		Description: `Removes the mount units of a volume, or the one of --mount. What is mounted now stays mounted
unless --now is given. The volume and its data stay.

   voluks boot disable pg`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "mount", Usage: "only the mount at `PATH`"},
			&cli.BoolFlag{Name: "now", Usage: "unmount it now too", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			return e.bootDisable(c.Context, args[0], c.String("mount"), c.Bool("now"))
		},
	}
}

func (e *env) bootDisable(ctx context.Context, name, where string, now bool) error {
	all, err := systemd.BootMounts(e.bootDir())
	if err != nil {
		return err
	}
	disabled := []string{}
	for _, b := range all {
		if b.Volume != name || where != "" && b.Where != where {
			continue
		}
		if now && e.live() {
			if _, err := systemd.Control(ctx, "stop", b.Name()); err != nil {
				return err
			}
		}
		if err := b.Disable(e.bootDir()); err != nil {
			return err
		}
		disabled = append(disabled, b.Where)
		// A directory in which nothing can be written would puzzle whoever uses it next.
		err := filesystem.RemoveBare(filepath.Join("/", e.root, b.Where))
		if err != nil && !errors.Is(err, filesystem.ErrMounted) {
			e.warn("%v", err)
		}
	}
	if len(disabled) == 0 {
		return &volume.Error{Code: volume.CodeNotFound, Op: "disable", Volume: name, Err: errors.New("it is not opened at boot")}
	}
	if e.live() {
		if _, err := systemd.Control(ctx, "daemon-reload"); err != nil {
			return err
		}
	}
	return e.print(map[string][]string{"disabled": disabled}, func(w io.Writer) {
		for _, where := range disabled {
			fmt.Fprintf(w, "disabled %s: no longer mounted at %s at boot\n", name, where)
		}
	})
}
