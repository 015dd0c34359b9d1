// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/doctor"
	"github.com/voluks/voluks/internal/kek/providers"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/luks"
)

func doctorCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "look this node over: what is wrong, why it matters, how to mend it",
		Description: `Looks at the kernel, udev, libcryptsetup, the agent, Docker, the configuration, permissions,
keys, swap and the clock, and changes nothing. Everything that is not fine is explained. Run it
as root, or some things cannot be found out.

The exit status is 13 if something keeps volumes from working or endangers data; with --strict
a warning is enough.

   voluks doctor
   voluks --format json doctor | jq -r '.findings[] | select(.level == "error").mend'`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "quiet", Usage: "show nothing that is fine", DisableDefaultText: true},
			&cli.BoolFlag{Name: "strict", Usage: "take warnings, and what could not be found out, as seriously as errors", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return e.doctor(c.Context, c.Bool("quiet"), c.Bool("strict"))
		},
	}
}

// unwellError is a node that something is wrong with.
type unwellError struct{ count int }

func (e *unwellError) Error() string {
	if e.count == 1 {
		return "one thing has to be mended"
	}
	return fmt.Sprintf("%d things have to be mended", e.count)
}

func (e *env) doctor(ctx context.Context, quiet, strict bool) error {
	version, err := luks.Version()
	if err != nil {
		return err
	}
	n := &doctor.Node{
		System: "/", Paths: e.paths(), ConfigFile: e.configFile(), Libcryptsetup: version,
		Keys: func(cfg config.Config) error { return providers.Check(providers.Open(cfg)) },
		Plaintext: func() ([]string, error) {
			infos, err := e.manager(e.quiet(), volume.Defaults{}).List(ctx)
			if err != nil {
				return nil, err
			}
			var names, sentences []string
			for _, info := range infos {
				names = append(names, info.Name)
			}
			found, err := e.engine().Bypasses(ctx, names)
			for _, b := range found {
				sentences = append(sentences, b.String())
			}
			return sentences, err
		},
	}
	n.Drills = func() (due []string, err error) {
		infos, err := e.manager(e.quiet(), volume.Defaults{}).List(ctx)
		for _, info := range infos {
			if info.DrillDue != "" {
				due = append(due, info.Name+": "+info.DrillDue)
			}
		}
		return due, err
	}
	if e.root != "" {
		n.Owner = os.Geteuid()
	}
	r := doctor.Run(n)
	if err := e.print(r, func(w io.Writer) { doctorText(w, r, quiet, e.verbose) }); err != nil {
		return err
	}
	least := doctor.Error
	if strict {
		least = doctor.Unknown
	}
	if wrong := r.Above(least); len(wrong) > 0 {
		return &unwellError{len(wrong)}
	}
	return nil
}

// doctorText writes a line for each finding, and below what is not fine why it matters and how to mend it.
func doctorText(w io.Writer, r doctor.Report, quiet, verbose bool) {
	for _, f := range r.Findings {
		bad := f.Level.Worse(doctor.Note)
		if quiet && !bad {
			continue
		}
		fmt.Fprintf(w, "%-8s %-21s %s\n", f.Level, f.Check, strings.ReplaceAll(f.What, "\n", "; "))
		if bad || verbose {
			fmt.Fprintf(w, "%8s %21s why:  %s\n", "", "", f.Why)
		}
		if f.Mend != "" {
			fmt.Fprintf(w, "%8s %21s mend: %s\n", "", "", f.Mend)
		}
	}
}
