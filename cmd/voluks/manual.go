// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// manual makes the manual pages, by file name: voluks.1 and one for each command below it.
func manual(app *cli.App, date string) map[string]string {
	pages := map[string]string{}
	var main roff
	main.head("voluks", date)
	main.section("NAME")
	main.line("voluks \\- %s", roffText(app.Usage))
	main.section("SYNOPSIS")
	main.line(".B voluks\n[\\fIglobal options\\fR] \\fINOUN\\fR \\fIVERB\\fR [\\fIoptions\\fR] [\\fIarguments\\fR]")
	main.section("DESCRIPTION")
	main.text(app.Description)
	main.section("COMMANDS")
	for _, c := range visible(app.Commands) {
		page := "voluks-" + c.Name
		main.line(".TP\n.BR %s (1)\n%s", roffText(page), roffText(c.Usage))
		pages[page+".1"] = commandPage(c, page, date)
	}
	main.section("GLOBAL OPTIONS")
	main.options(visibleFlags(app.Flags))
	main.section("FILES")
	for _, f := range [][2]string{
		{"/etc/voluks/config.toml", "the configuration; unknown keys in it are errors"},
		{"/etc/voluks/master.key", "the master key of the key provider \"file\": 32 raw bytes, for root alone"},
		{"/var/lib/voluks/volumes/NAME/", "a volume: its record and, for an image, its ciphertext"},
		{"/var/lib/voluks/removed/", "removed volumes, until their time is over"},
		{"/var/lib/voluks/mnt/NAME", "where a volume is mounted; nothing can be written there while it is not"},
		{"/run/docker/plugins/voluks.sock", "where Docker and Podman call the agent"},
	} {
		main.line(".TP\n.I %s\n%s", roffText(f[0]), roffText(f[1]))
	}
	main.exits(nil)
	main.section("SEE ALSO")
	main.line(".BR cryptsetup (8),\n.BR systemd.mount (5),\n.BR crypttab (5),\n.BR docker (1)")
	pages["voluks.1"] = main.String()
	return pages
}

// commandPage is the page of a noun with its verbs, or of a command without.
func commandPage(c *cli.Command, page, date string) string {
	var r roff
	r.head(page, date)
	r.section("NAME")
	r.line("%s \\- %s", roffText(page), roffText(c.Usage))
	verbs := leaves(c)
	r.section("SYNOPSIS")
	if len(verbs) == 0 {
		name := "voluks " + c.Name // cli leaves HelpName empty on the first level
		r.synopsis(name, c.ArgsUsage)
		r.section("DESCRIPTION")
		r.text(c.Description)
		if flags := visibleFlags(c.Flags); len(flags) > 0 {
			r.section("OPTIONS")
			r.options(flags)
		}
		r.exits(exitsOf[name])
		r.seeAlso()
		return r.String()
	}
	for i, verb := range verbs {
		if i > 0 {
			r.line(".br")
		}
		r.synopsis(verb.HelpName, verb.ArgsUsage)
	}
	r.section("DESCRIPTION")
	r.text(c.Description)
	var codes []int
	for _, verb := range verbs {
		r.section(strings.ToUpper(verb.HelpName))
		r.text(upperFirst(verb.Usage) + ".")
		r.text(verb.Description)
		r.options(visibleFlags(verb.Flags))
		codes = append(codes, exitsOf[verb.HelpName]...)
	}
	r.exits(append(codes, exitOK))
	r.seeAlso()
	return r.String()
}

// leaves are the commands below a noun, groups of commands left out.
func leaves(c *cli.Command) []*cli.Command {
	var all []*cli.Command
	for _, sub := range visible(c.Subcommands) {
		if len(sub.Subcommands) > 0 {
			all = append(all, leaves(sub)...)
		} else {
			all = append(all, sub)
		}
	}
	return all
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// roff writes a manual page in the macros of man(7).
type roff struct{ strings.Builder }

func (r *roff) line(format string, args ...any) { fmt.Fprintf(r, format+"\n", args...) }

func (r *roff) head(page, date string) {
	r.line(".TH %s 1 \"%s\" \"voluks %s\" \"User Commands\"", strings.ToUpper(page), date, version)
	// Neither hyphens nor justified lines: what stands here is often a command.
	r.line(".nh\n.ad l")
}

func (r *roff) section(name string) { r.line(".SH \"%s\"", roffText(name)) }

func (r *roff) synopsis(name, args string) {
	r.line(".B %s\n[\\fIoptions\\fR] \\fI%s\\fR", roffText(name), roffText(args))
}

func (r *roff) seeAlso() {
	r.section("SEE ALSO")
	r.line(".BR voluks (1)")
}

// text writes a description: paragraphs, and examples, which are indented.
func (r *roff) text(s string) {
	for _, block := range strings.Split(strings.Trim(s, "\n"), "\n\n") {
		if block == "" {
			continue
		}
		if !strings.HasPrefix(block, "   ") {
			r.line(".PP\n%s", roffText(block))
			continue
		}
		r.line(".PP\n.RS 4\n.nf")
		for line := range strings.Lines(block) {
			r.line("%s", roffText(strings.TrimPrefix(strings.TrimRight(line, "\n"), "   ")))
		}
		r.line(".fi\n.RE")
	}
}

func (r *roff) options(flags []cli.DocGenerationFlag) {
	for _, f := range flags {
		name, value, usage := flagText(f)
		if value != "" {
			value = " \\fI" + roffText(value) + "\\fR"
		}
		r.line(".TP\n\\fB%s\\fR%s\n%s", roffText(name), value, roffText(upperFirst(usage)))
	}
}

// exits writes the table of exit statuses: all, or the first three and some.
func (r *roff) exits(codes []int) {
	r.section("EXIT STATUS")
	for _, row := range exitTable {
		if codes == nil || row.code <= exitUsage || slices.Contains(codes, row.code) {
			r.line(".TP\n.B %d\n%s", row.code, roffText(row.text))
		}
	}
}

// roffText keeps roff from taking a character of a text for one of its own: backslashes, hyphens that are minus signs (in options, which people copy), and
// a full stop or an apostrophe at the start of a line.
func roffText(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "^", `\(ha`, "~", `\(ti`, "`", `\(ga`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
