// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// newApp is the command line. Actions find their env by closure: there is no package state.
func newApp(e *env) *cli.App {
	app := &cli.App{
		Name:  "voluks",
		Usage: "encrypted volumes for Docker, systemd and the command line",
		Description: `voluks keeps volumes in LUKS2 (AES-256-XTS) and hands them to containers.
"voluks serve" is the agent that Docker calls for "driver: voluks";
everything else is for the administrator and works without the agent too.

Set up this node, start the agent, and use a volume:

   voluks init
   systemctl enable --now voluks.socket voluks-keys.socket \
       voluks.service voluks-gate.service voluks-shutdown.service
   docker volume create -d voluks -o size=10G db
   voluks volume ls`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "config", Usage: "configuration `FILE`, otherwise /etc/voluks/config.toml", Destination: &e.file},
			&cli.StringFlag{Name: "root", Usage: "`DIR` below which everything is kept, otherwise /", Destination: &e.root},
			&cli.StringFlag{Name: "format", Value: "text", Usage: "`FORMAT` of output and errors: text or json"},
			&cli.BoolFlag{Name: "verbose", Usage: "tell more on standard error", Destination: &e.verbose},
		},
		Before: func(c *cli.Context) error { return e.prepare(c) },
		Commands: []*cli.Command{
			initCommand(e),
			serveCommand(e),
			volumeCommand(e),
			keyslotCommand(e),
			kekCommand(e),
			recoveryCommand(e),
			headerCommand(e),
			bootCommand(e),
			systemdCommand(e),
			doctorCommand(e),
			versionCommand(e),
			workerCommand(e),
			generateCommand(e),
		},
		HideHelpCommand:           true,
		HideVersion:               true,
		Suggest:                   true,
		DisableSliceFlagSeparator: true,
		Reader:                    e.stdin,
		Writer:                    e.stdout,
		ErrWriter:                 e.stderr,
		OnUsageError:              func(_ *cli.Context, err error, _ bool) error { return err },
		ExitErrHandler:            func(*cli.Context, error) {}, // run reports and exits
	}
	for _, c := range app.Commands {
		complete(c, app.Name)
	}
	return app
}

// complete gives a command what all of them have.
func complete(c *cli.Command, parent string) {
	name := parent + " " + c.Name
	if parent != "voluks" {
		c.HelpName = name // cli itself puts the program's name before that of a command of the first level
	}
	c.HideHelpCommand = true
	c.OnUsageError = func(_ *cli.Context, err error, _ bool) error { return &usageError{command: name, text: err.Error()} }
	if len(c.Subcommands) == 0 {
		return
	}
	for _, sub := range c.Subcommands {
		complete(sub, name)
	}
	c.Action = func(ctx *cli.Context) error {
		return &usageError{command: name, text: name + " needs a command" + didYouMean("", commandNames(c.Subcommands))}
	}
}

// runApp runs one command line.
func runApp(ctx context.Context, args []string, e *env) error {
	app := newApp(e)
	e.json = asksForJSON(args) // also errors of the command line itself
	words, err := normalize(app, args[1:])
	if err != nil {
		return err
	}
	if len(words) == 1 || slices.ContainsFunc(words, func(w string) bool { return strings.HasPrefix(strings.TrimLeft(w, "-"), "h") }) {
		explain(app)
	}
	if len(words) == 1 {
		app.Writer = e.stderr
		if err := app.RunContext(ctx, append(words, "--help")); err != nil {
			return err
		}
		return &usageError{command: app.Name, text: "no command given"}
	}
	return app.RunContext(ctx, words)
}

// prepare checks the global flags.
func (e *env) prepare(c *cli.Context) error {
	switch format := c.String("format"); format {
	case "text", "json":
		e.json = format == "json"
	default:
		return &usageError{command: "voluks", text: "--format is text or json, not \"" + format + "\""}
	}
	for _, path := range []*string{&e.root, &e.file} {
		if *path == "" {
			continue
		}
		if err := absolute(path); err != nil {
			return err
		}
	}
	return nil
}

// absolute makes a path that the caller gave independent of where this process stands.
func absolute(path *string) error {
	abs, err := filepath.Abs(*path)
	if err == nil {
		*path = abs
	}
	return err
}

func asksForJSON(args []string) bool {
	for i, a := range args {
		switch {
		case a == "--":
			return false
		case a == "--format=json" || a == "-format=json", (a == "--format" || a == "-format") && i+1 < len(args) && args[i+1] == "json":
			return true
		}
	}
	return false
}

// arguments returns the arguments of a command if there are as many as it has names for. The last name may end in "..." for any number from one.
func arguments(c *cli.Context, names ...string) ([]string, error) {
	args := c.Args().Slice()
	usage := func(text string) error { return &usageError{command: c.Command.HelpName, text: text} }
	many := len(names) > 0 && len(names[len(names)-1]) > 3 && names[len(names)-1][len(names[len(names)-1])-3:] == "..."
	switch {
	case len(args) < len(names):
		return nil, usage(c.Command.HelpName + " needs " + names[len(args)])
	case len(args) > len(names) && !many:
		return nil, usage("too many arguments: " + quoted(args[len(names)]))
	}
	return args, nil
}

func quoted(s string) string { return `"` + s + `"` }
