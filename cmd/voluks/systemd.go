// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/systemd"
)

// udevDir is where udev rules of the administrator lie, below --root.
const udevDir = "/etc/udev/rules.d"

// unitDir is where units of the administrator lie, below --root.
const unitDir = "/etc/systemd/system"

func systemdCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:        "systemd",
		Usage:       "the units that run voluks as a service",
		Description: `Packages bring the units along. Without a package, "voluks systemd install" writes them.`,
		Subcommands: []*cli.Command{systemdUnitsCommand(e), systemdInstallCommand(e)},
	}
}

func systemdUnitsCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "units",
		Usage:     "print the units of this version",
		ArgsUsage: "[UNIT...]",
		Description: `Prints all units that belong to this version of voluks, or those that are named, as they
would be installed for this program.

   voluks systemd units voluks.service`,
		Action: func(c *cli.Context) error { return e.systemdUnits(c.Args().Slice()) },
	}
}

// units are those of this program, wherever it is installed.
func (e *env) units() ([]systemd.Unit, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find out where this program is: %w", err)
	}
	return systemd.Units(program)
}

func (e *env) systemdUnits(names []string) error {
	units, err := e.units()
	if err != nil {
		return err
	}
	all := []string{}
	for _, u := range units {
		all = append(all, u.Name)
	}
	for _, name := range names {
		if !slices.Contains(all, name) {
			return &usageError{"voluks systemd units", fmt.Sprintf("there is no unit %q%s", name, didYouMean(name, all))}
		}
	}
	if len(names) > 0 {
		units = slices.DeleteFunc(units, func(u systemd.Unit) bool { return !slices.Contains(names, u.Name) })
	}
	result := map[string]string{}
	for _, u := range units {
		result[u.Name] = u.Content
	}
	return e.print(result, func(w io.Writer) {
		for i, u := range units {
			if len(units) > 1 {
				fmt.Fprintf(w, "%s# %s\n", strings.Repeat("\n", min(i, 1)), u.Name)
			}
			fmt.Fprint(w, u.Content)
		}
	})
}

func systemdInstallCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "install",
		Usage: "write the units, for an installation without a package",
		Description: `Writes the units for this program, where it is now, a rule for udev, and the helper with which
mount(8) mounts volumes. What is there in just this form is left alone; drop-ins always are.

   voluks systemd install --enable`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "dir", Value: unitDir, Usage: "write the units to `DIR`"},
			&cli.BoolFlag{Name: "enable", Usage: "start the agent now and at each boot", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return e.systemdInstall(c.Context, c.String("dir"), c.Bool("enable"))
		},
	}
}

// live tells whether systemd here looks at what is written below --root.
func (e *env) live() bool { return e.root == "" && systemd.Booted() }

func (e *env) systemdInstall(ctx context.Context, dir string, enable bool) error {
	units, err := e.units()
	if err != nil {
		return err
	}
	if enable && !e.live() {
		return &usageError{"voluks systemd install", "--enable needs a machine that runs systemd, and no --root"}
	}
	written, err := systemd.Install(filepath.Join("/", e.root, dir), units)
	if err != nil {
		return err
	}
	rules, err := systemd.Install(filepath.Join("/", e.root, udevDir), []systemd.Unit{{Name: systemd.UdevFile, Content: systemd.UdevRules}})
	if err != nil {
		return err
	}
	written = append(written, rules...)
	helper, err := e.installHelper()
	if err != nil {
		return err
	}
	written = append(written, helper...)
	if e.live() && len(written) > 0 {
		if _, err := systemd.Control(ctx, "daemon-reload"); err != nil {
			return err
		}
	}
	enabled := []string{}
	for _, u := range units {
		if len(u.WantedBy) > 0 {
			enabled = append(enabled, u.Name)
		}
	}
	if enable {
		if _, err := systemd.Control(ctx, append([]string{"enable", "--quiet"}, enabled...)...); err != nil {
			return err
		}
		if _, err := systemd.Control(ctx, "start", "voluks-shutdown.service", "voluks-keys.socket", "voluks.socket", "voluks.service"); err != nil {
			return err
		}
	}
	return e.print(map[string][]string{"written": append([]string{}, written...)}, func(w io.Writer) {
		for _, path := range written {
			fmt.Fprintf(w, "wrote %s\n", path)
		}
		if !enable {
			fmt.Fprintf(w, "start the agent, now and at each boot: systemctl enable --now %s\n", strings.Join(enabled, " "))
		}
	})
}

// helperPath is where mount(8) looks for what mounts the type "voluks".
const helperPath = "/usr/sbin/mount." + systemd.MountType

// installHelper links this program there. It returns the link if it was not there.
func (e *env) installHelper() ([]string, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find out where this program is: %w", err)
	}
	link := filepath.Join("/", e.root, helperPath)
	target, err := os.Readlink(link)
	switch {
	case err == nil && (target == program || filepath.Join(filepath.Dir(link), target) == program):
		return nil, nil
	case err == nil:
		err = os.Remove(link)
	case errors.Is(err, fs.ErrNotExist):
		err = os.MkdirAll(filepath.Dir(link), 0o755)
	}
	if err == nil {
		err = os.Symlink(program, link)
	}
	if err != nil {
		return nil, fmt.Errorf("install the helper of mount(8): %w", err)
	}
	return []string{link}, nil
}
