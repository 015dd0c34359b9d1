// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/systemd"
)

// asHelper turns the command line that mount(8) gives its helper, "mount.voluks voluks:NAME PATH [-sfnv] [-o OPTIONS]", into one of ours.
func asHelper(args []string) []string {
	if filepath.Base(args[0]) != "mount."+systemd.MountType {
		return args
	}
	out := []string{args[0], "boot", "mount"}
	var words []string
	for i := 1; i < len(args); i++ {
		switch a := args[i]; {
		case (a == "-o" || a == "-N" || a == "-t") && i+1 < len(args):
			i++
			switch a {
			case "-o":
				out = append(out, "--options", args[i])
			case "-N":
				out = append(out, "--namespace", args[i])
			}
		case len(a) > 1 && a[0] == '-' && strings.Trim(a[1:], "sfnv") == "":
			if strings.Contains(a, "f") {
				out = append(out, "--fake")
			}
		default:
			words = append(words, a)
		}
	}
	return append(append(out, "--"), words...)
}

func bootMountCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "mount",
		Usage:     "mount the data of an open volume, as mount -t voluks does",
		ArgsUsage: "voluks:NAME PATH",
		Description: `Mounts the directory that containers get too, and proves that it lies on the volume's own
encrypted device. The volume must be open: voluks-volume@NAME.service opens it.

   voluks boot mount voluks:pg /srv/pg
   mount -t voluks voluks:pg /srv/pg`,
		Hidden: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "options", Usage: "mount `OPTIONS`"},
			&cli.StringFlag{Name: "namespace", Usage: "mount in the namespace of `PROCESS`, which is not possible"},
			&cli.BoolFlag{Name: "fake", Usage: "do everything but mount", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "voluks:NAME", "PATH")
			if err != nil {
				return err
			}
			name, ok := strings.CutPrefix(args[0], systemd.MountType+":")
			usage := func(text string) error { return &usageError{c.Command.HelpName, text} }
			if !ok {
				return usage(quoted(args[0]) + " is no volume; it is written voluks:NAME")
			}
			if c.String("namespace") != "" {
				return usage("it cannot be mounted in another namespace")
			}
			if option := refusedOption(c.String("options")); option != "" {
				return usage("mount option " + option + ": the options of a volume's file system are fixed when it is created (mount=)")
			}
			return e.bootMount(c.Context, name, args[1], c.Bool("fake"))
		},
	}
}

// refusedOption returns the first mount option that would have to change something, "" if there is none. mount(8) and systemd hand on some that
// are for themselves.
func refusedOption(options string) string {
	known := []string{"", "defaults", "rw", "auto", "noauto", "nofail", "_netdev", "nouser"}
	for _, o := range strings.Split(options, ",") {
		if !slices.Contains(known, o) && !strings.HasPrefix(o, "x-") && !strings.HasPrefix(o, "X-") && !strings.HasPrefix(o, "comment=") {
			return o
		}
	}
	return ""
}

func (e *env) bootMount(ctx context.Context, name, where string, fake bool) error {
	m := e.manager(e.quiet(), volume.Defaults{})
	source, err := m.Path(ctx, name)
	if err != nil {
		return err
	}
	// The kernel's tables have no symbolic links in them.
	if where, err = filepath.EvalSymlinks(where); err != nil {
		return fmt.Errorf("find the mountpoint: %w", err)
	}
	// Held open, it is the same directory of the same mount from here on. So all proofs come before anything is mounted, and there is nothing to take
	// back, which could be the mount of somebody else.
	dir, err := sys.OpenDir(source)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := proveDir(ctx, m, name, source, dir); err != nil || fake {
		return err
	}
	return sys.BindDir(dir, where)
}

// pather is what proveDir needs of a volume.Manager.
type pather interface {
	Path(ctx context.Context, name string) (string, error)
}

// proveDir makes sure that dir lies on the mount that is proven to be the volume's: between a look at the path and its opening somebody may have
// unmounted the volume.
func proveDir(ctx context.Context, m pather, name, source string, dir *os.File) error {
	if now, err := m.Path(ctx, name); err != nil || now != source {
		return errors.Join(err, plain(name, "its data was at %s, and is at %q", source, now))
	}
	id, err := sys.MountID(dir)
	if err != nil {
		return err
	}
	mount, err := topMount(filepath.Dir(source))
	if err != nil {
		return err
	}
	if mount == nil || mount.ID != id {
		return plain(name, "it was unmounted meanwhile")
	}
	return nil
}

func plain(name, format string, args ...any) error {
	return &volume.Error{Code: volume.CodePlaintext, Op: "mount", Volume: name, Err: fmt.Errorf(format, args...)}
}

// topMount is the mount at just that path that is on top, nil if there is none.
func topMount(path string) (*sys.MountInfo, error) {
	all, err := sys.MountInfoOf("self")
	if err != nil {
		return nil, err
	}
	var top *sys.MountInfo
	for i := range all {
		if all[i].Mountpoint == path {
			top = &all[i]
		}
	}
	return top, nil
}
