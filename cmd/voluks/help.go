// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/lateregexp"
)

// The help texts are rendered here and not by cli's templates, which show a repeatable flag twice and cannot have a section of exit statuses. The result is
// a template without actions.

// explain gives the program and all commands their help. It is as much work as many a command, so whoever shows no help does without.
func explain(app *cli.App) {
	app.CustomAppHelpTemplate = appHelp(app)
	for _, c := range app.Commands {
		explainCommand(c, app.Name)
	}
}

func explainCommand(c *cli.Command, parent string) {
	name := parent + " " + c.Name
	if len(c.Subcommands) == 0 {
		c.CustomHelpTemplate = commandHelp(c, name)
		return
	}
	c.CustomHelpTemplate = groupHelp(c, name)
	for _, sub := range c.Subcommands {
		explainCommand(sub, name)
	}
}

// appHelp is the help of the program.
func appHelp(app *cli.App) string {
	return section("NAME", "voluks - "+app.Usage) +
		section("USAGE", "voluks [global options] NOUN VERB [options] [arguments]") +
		section("DESCRIPTION", app.Description) +
		section("COMMANDS", commandText(app.Commands)+"\nvoluks NOUN --help lists the verbs, voluks NOUN VERB --help shows an example.") +
		section("GLOBAL OPTIONS", optionText(app.Flags)) +
		lastSection("EXIT STATUS", exitStatus())
}

// groupHelp is the help of a command that has commands.
func groupHelp(c *cli.Command, name string) string {
	return section("NAME", name+" - "+c.Usage) +
		section("USAGE", name+" VERB [options] [arguments]") +
		section("DESCRIPTION", c.Description) +
		section("COMMANDS", commandText(c.Subcommands)) +
		lastSection("EXIT STATUS", exitStatus())
}

// commandHelp is the help of a command that does something.
func commandHelp(c *cli.Command, name string) string {
	usage := name + " [options]"
	if c.ArgsUsage != "" {
		usage += " " + c.ArgsUsage
	}
	return section("NAME", name+" - "+c.Usage) +
		section("USAGE", usage) +
		section("DESCRIPTION", c.Description) +
		section("OPTIONS", optionText(c.Flags)) +
		lastSection("EXIT STATUS", exitStatus(append(exitsOf[name], exitOK)...))
}

func section(head, text string) string { return lastSection(head, text) + "\n" }

func lastSection(head, text string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:\n", head)
	for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
		if line != "\n" {
			b.WriteString("   ")
		}
		b.WriteString(line)
	}
	return b.String()
}

func commandText(commands []*cli.Command) string {
	return columns(func(w *tabwriter.Writer) {
		for _, c := range commands {
			if !c.Hidden {
				fmt.Fprintf(w, "%s\t%s\n", c.Name, c.Usage)
			}
		}
	})
}

var placeholder = lateregexp.New("`([^`]*)`")

func optionText(flags []cli.Flag) string {
	return columns(func(w *tabwriter.Writer) {
		for _, f := range visibleFlags(flags) {
			name, value, usage := flagText(f)
			fmt.Fprintf(w, "%s\t%s\n", strings.TrimRight(name+" "+value, " "), usage)
		}
		fmt.Fprintf(w, "--help, -h\tshow this\n")
	})
}

// visibleFlags are the flags that people are told of.
func visibleFlags(flags []cli.Flag) []cli.DocGenerationFlag {
	var shown []cli.DocGenerationFlag
	for _, f := range flags {
		doc, ok := f.(cli.DocGenerationFlag)
		if v, hides := f.(cli.VisibleFlag); ok && (!hides || v.IsVisible()) {
			shown = append(shown, doc)
		}
	}
	return shown
}

// flagText gives a flag's names, the name of its value, if it has one, and what it does.
func flagText(f cli.DocGenerationFlag) (name, value, usage string) {
	var names []string
	for _, n := range f.Names() {
		names = append(names, strings.Repeat("-", min(len(n), 2))+n)
	}
	usage = f.GetUsage()
	if m := placeholder().FindStringSubmatch(usage); m != nil {
		value, usage = m[1], strings.ReplaceAll(usage, "`", "")
	}
	if v := f.GetValue(); f.TakesValue() && v != "" && !strings.Contains(usage, "otherwise") {
		if minutes, ok := strings.CutSuffix(v, "m0s"); ok { // as people write times
			v = minutes + "m"
		}
		usage += " (otherwise " + v + ")"
	}
	return strings.Join(names, ", "), value, usage
}

func columns(rows func(*tabwriter.Writer)) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	rows(w)
	w.Flush()
	return b.String()
}
