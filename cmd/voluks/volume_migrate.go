// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/copytree"
)

func volumeMigrateCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "migrate",
		Usage:     "copy plain data into an encrypted volume, and verify it",
		ArgsUsage: "SOURCE [NAME]",
		Description: `SOURCE is a plain volume of Docker (its name), or a directory (a path). The
volume NAME is made if it is not there; of a Docker volume its name is the
same unless given. Owners, permissions, access lists, attributes, times, hard
links, holes and special files are kept. Afterwards everything is read back
from the disk and compared, by checksums.

With --live the source may be in use: that is the first pass, which takes the
time, and is not verified. Stop what uses the source then, and migrate again
without it: only what has changed is copied. Whatever interrupts a pass, the
next one goes on. Until a pass was verified nobody else gets the volume. The
source is not touched unless you say so:

--swap makes Docker forget its plain volume, so that the same name means the
encrypted one: in the Compose file the volume then needs no more than
"driver: voluks". The plain data is kept beside Docker's volumes, and its
place is told. --retire-source removes the plain data: at the end of the last
pass, or later, when what nobody has written since is read back once more.
Only what was copied and verified is removed; what was on the disk in clear
may still be found there.

A pass makes the volume what the source is. So it is refused when the source is
another one than before, or has lost much of what it had, or when anything has
been written into the volume since it was verified; --overwrite loses that.

   voluks volume migrate --live shop_pgdata
   docker compose down
   voluks volume migrate --swap shop_pgdata
   voluks volume migrate /srv/uploads uploads`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "live", Usage: "a first pass, while the source is in use", DisableDefaultText: true},
			&cli.BoolFlag{Name: "swap", Usage: "make the name in Docker that of the encrypted volume", DisableDefaultText: true},
			&cli.BoolFlag{Name: "retire-source", Usage: "remove the plain data, once the copy is verified", DisableDefaultText: true},
			&cli.BoolFlag{Name: "overwrite", Usage: "lose what the volume has and the source does not", DisableDefaultText: true},
			&cli.BoolFlag{Name: "force", Usage: "with --retire-source: do not ask", DisableDefaultText: true},
			&cli.StringFlag{Name: "size", Usage: "`SIZE` of the file system; without it, room for twice the data"},
			&cli.StringFlag{Name: "fs", Usage: "`TYPE` of the file system: ext4, xfs or btrfs"},
			&cli.StringSliceFlag{Name: "opt", Aliases: []string{"o"}, Usage: "`NAME=VALUE` of any option of the volume; repeatable"},
		},
		Action: func(c *cli.Context) error {
			usage := func(text string) error { return &usageError{command: c.Command.HelpName, text: text} }
			args := c.Args().Slice()
			if len(args) < 1 || len(args) > 2 {
				return usage(c.Command.HelpName + " needs SOURCE, and NAME")
			}
			o := migration{
				source: args[0], live: c.Bool("live"), swap: c.Bool("swap"), retire: c.Bool("retire-source"),
				overwrite: c.Bool("overwrite"), force: c.Bool("force"),
			}
			o.docker = !strings.Contains(o.source, "/")
			switch {
			case len(args) == 2:
				o.name = args[1]
			case o.docker:
				o.name = o.source
			default:
				return usage("a directory needs the NAME of a volume")
			}
			switch {
			case o.live && (o.swap || o.retire):
				return usage("--live is a first pass: swap and retire at the last one")
			case o.swap && !o.docker:
				return usage("--swap is for a volume of Docker")
			case o.docker && (o.swap || o.retire) && o.name != o.source:
				return usage("--swap and --retire-source want the encrypted volume to have the name of Docker's")
			}
			var err error
			if o.options, err = optionMap(c); err != nil {
				return err
			}
			return e.volumeMigrate(c.Context, o)
		},
	}
}

// migration is what is to be done.
type migration struct {
	source, name       string
	docker             bool // source is the name of a volume of Docker
	live, swap, retire bool
	overwrite, force   bool
	options            map[string]string
}

// migrateResult is what a pass was, for programs.
type migrateResult struct {
	Volume   string            `json:"volume"`
	Source   string            `json:"source"` // path of the plain data at first, without symbolic links
	Pass     string            `json:"pass"`   // "live", "final"; empty: an earlier one was, and only its end was left to do
	Copy     copytree.Stats    `json:"copy"`
	Verified bool              `json:"verified"` // all of the copy was read back and is what the source is
	Seconds  float64           `json:"seconds"`
	Plain    string            `json:"plain,omitempty"`   // where the plain data is now; empty: it is gone
	Swapped  bool              `json:"swapped"`           // Docker has forgotten its plain volume
	Recheck  *copytree.Recheck `json:"recheck,omitempty"` // what was read back of a copy that is in use since
	Receipt  *plainReceipt     `json:"receipt,omitempty"` // of the plain data that was removed
}

// plainReceipt says what became of plain data, and of its bytes.
type plainReceipt struct {
	How     string   `json:"how"` // "logical only"
	Reasons []string `json:"reasons"`
	Advice  []string `json:"advice"`
	copytree.Removal
}

func migrateText(w io.Writer, o migration, r migrateResult) {
	if r.Pass != "" {
		fmt.Fprintf(w, "copied %d of %d files, %s, from %s into %s", r.Copy.Copied, r.Copy.Files, config.FormatSize(r.Copy.Written), r.Source, r.Volume)
		if r.Copy.Removed > 0 {
			fmt.Fprintf(w, "; removed %d that are gone", r.Copy.Removed)
		}
		fmt.Fprintln(w)
	}
	if r.Pass == "live" {
		fmt.Fprintf(w, "not verified yet, so nobody gets the volume; stop what uses %s, and then: voluks volume migrate %s\n", o.source, o.again())
		return
	}
	if r.Pass != "" {
		fmt.Fprintf(w, "verified: all %d files, %s, read back from the disk\n", r.Copy.Files, config.FormatSize(r.Copy.Bytes))
	}
	if c := r.Recheck; c != nil {
		fmt.Fprintf(w, "verified once more: %d files that nobody has written since; %d have been, %d are gone\n", c.Verified, c.Changed, c.Gone)
	}
	if r.Copy.Sockets > 0 {
		fmt.Fprintf(w, "left out %d sockets, which their servers make anew\n", r.Copy.Sockets)
	}
	if r.Swapped {
		fmt.Fprintf(w, "Docker has no plain volume %s any more; in the Compose file: driver: voluks\n", r.Volume)
	}
	if r.Plain != "" {
		fmt.Fprintf(w, "the plain data is still at %s\n", r.Plain)
	}
	if r.Receipt != nil {
		r.Receipt.text(w)
	}
}

// again is the command line of a migration without its flags.
func (o migration) again() string {
	if o.docker && o.name == o.source {
		return shellQuote(o.source)
	}
	return shellQuote(o.source) + " " + o.name
}

func (r *plainReceipt) text(w io.Writer) {
	fmt.Fprintf(w, "removed the plain data, %d names: %s\n", r.Removed, r.How)
	for _, reason := range r.Reasons {
		fmt.Fprintf(w, "  %s\n", reason)
	}
	for i, path := range r.Elsewhere {
		if i == shownPaths {
			fmt.Fprintf(w, "  and %d more\n", len(r.Elsewhere)-i)
			break
		}
		fmt.Fprintf(w, "  still in clear under another name outside: %s\n", path)
	}
	for _, advice := range r.Advice {
		fmt.Fprintf(w, "  advice: %s\n", advice)
	}
}

// shownPaths is how many of a list of paths a person is shown.
const shownPaths = 10
