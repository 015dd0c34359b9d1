// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// normalize orders a command line the way urfave/cli reads it: global flags, command, its flags, "--", arguments. cli takes flags behind an argument
// for arguments, without a word ("volume rm NAME --force"), answers an unknown command with a help topic, and keeps the last of two contradicting flags; here flags
// work anywhere behind their command, global ones anywhere at all, and everything else is a *usageError. "voluks help volume rm" is the help of
// that command.
func normalize(app *cli.App, args []string) ([]string, error) {
	n := normalizer{app: app, path: []string{app.Name}, commands: app.Commands, seen: map[string]bool{}}
	for len(args) > 0 && !n.help {
		var err error
		if args, err = n.next(args); err != nil {
			return nil, err
		}
	}
	out := append([]string{app.Name}, n.global...)
	out = append(out, n.path[1:]...)
	if n.help {
		return append(out, "--help"), nil
	}
	out = append(out, n.flags...)
	if len(n.args) > 0 {
		out = append(append(out, "--"), n.args...)
	}
	return out, nil
}

type normalizer struct {
	app      *cli.App
	path     []string       // "voluks", "volume", "rm"
	commands []*cli.Command // what may follow
	command  *cli.Command   // the deepest so far; nil: the app
	global   []string
	flags    []string
	args     []string
	seen     map[string]bool // flags that may come once
	help     bool
}

// next takes one flag with its value, one command or one argument off the line.
func (n *normalizer) next(args []string) ([]string, error) {
	word, rest := args[0], args[1:]
	leaf := len(n.commands) == 0
	switch {
	case word == "--" && leaf:
		n.args = append(n.args, rest...)
		return nil, nil
	case word == "-h" || word == "--help" || word == "-help":
		n.help = true
		return nil, nil
	case word == "help" && !leaf:
		return append(slices.Clone(rest), "--help"), nil
	case len(word) > 1 && word[0] == '-':
		return n.flag(word, rest)
	case leaf:
		n.args = append(n.args, word)
		return rest, nil
	}
	for _, c := range n.commands {
		if c.HasName(word) {
			n.command, n.commands = c, c.Subcommands
			n.path = append(n.path, c.Name)
			return rest, nil
		}
	}
	return nil, n.usage("unknown command %q%s", strings.Join(append(n.path[1:], word), " "), didYouMean(word, commandNames(n.commands)))
}

func (n *normalizer) flag(word string, rest []string) ([]string, error) {
	name, _, hasValue := strings.Cut(strings.TrimLeft(word, "-"), "=")
	to := &n.flags
	f := find(n.ownFlags(), name)
	if f == nil {
		to, f = &n.global, find(n.app.Flags, name)
	}
	if f == nil {
		return nil, n.usage("unknown flag %s%s", strings.SplitN(word, "=", 2)[0], didYouMean("--"+name, flagNames(n.ownFlags(), n.app.Flags)))
	}
	name = f.Names()[0]
	if _, many := f.(*cli.StringSliceFlag); !many && n.seen[name] {
		return nil, n.usage("--%s is there twice", name)
	}
	n.seen[name] = true
	*to = append(*to, word)
	if _, isBool := f.(*cli.BoolFlag); isBool || hasValue {
		return rest, nil
	}
	if len(rest) == 0 {
		return nil, n.usage("--%s needs a value", name)
	}
	*to = append(*to, rest[0])
	return rest[1:], nil
}

func (n *normalizer) ownFlags() []cli.Flag {
	if n.command == nil {
		return nil
	}
	return n.command.Flags
}

func (n *normalizer) usage(format string, args ...any) error {
	return &usageError{command: strings.Join(n.path, " "), text: fmt.Sprintf(format, args...)}
}

func find(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func commandNames(commands []*cli.Command) []string {
	var names []string
	for _, c := range commands {
		if !c.Hidden {
			names = append(names, c.Name)
		}
	}
	return names
}

func flagNames(lists ...[]cli.Flag) []string {
	names := []string{"--help"}
	for _, list := range lists {
		for _, f := range list {
			names = append(names, "--"+f.Names()[0])
		}
	}
	return names
}

// didYouMean ends a complaint about an unknown word: with the known one most like it, or with all of a few.
func didYouMean(word string, known []string) string {
	best, most := "", 0.0
	for _, k := range known {
		if s := similarity(word, k); s > most {
			best, most = k, s
		}
	}
	if most >= 0.6 {
		return fmt.Sprintf("; did you mean %q?", best)
	}
	return "; there are " + strings.Join(known, ", ")
}

// similarity is the share of pairs of neighbouring letters that two words have in common, 0 to 1; ends count as letters.
func similarity(a, b string) float64 {
	pairs := func(s string) []string {
		s = "^" + strings.ToLower(s) + "$"
		var out []string
		for i := range len(s) - 1 {
			out = append(out, s[i:i+2])
		}
		return out
	}
	pa, pb := pairs(a), pairs(b)
	common, total := 0, len(pa)+len(pb)
	for _, p := range pa {
		if i := slices.Index(pb, p); i >= 0 {
			common++
			pb = slices.Delete(pb, i, i+1)
		}
	}
	return 2 * float64(common) / float64(total)
}
