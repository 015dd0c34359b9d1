// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"
)

// completed is what may follow one command.
type completed struct {
	path     string // "", "volume", "volume rm"
	commands []*cli.Command
	flags    []cli.DocGenerationFlag
	names    bool // arguments are names of volumes
}

// completions lists all commands with what may follow them.
func completions(app *cli.App) []completed {
	all := []completed{{commands: visible(app.Commands), flags: visibleFlags(app.Flags)}}
	var walk func(prefix string, commands []*cli.Command)
	walk = func(prefix string, commands []*cli.Command) {
		for _, c := range visible(commands) {
			path := strings.TrimSpace(prefix + " " + c.Name)
			all = append(all, completed{path, visible(c.Subcommands), visibleFlags(c.Flags), strings.HasPrefix(c.ArgsUsage, "NAME")})
			walk(path, c.Subcommands)
		}
	}
	walk("", app.Commands)
	return all
}

// volumesDir is where shells look for the names of volumes. Only root can.
const volumesDir = "/var/lib/voluks/volumes"

// words are the commands and options that may follow, for a shell that shows no descriptions.
func (c completed) words() (commands, options, valued []string) {
	for _, sub := range c.commands {
		commands = append(commands, sub.Name)
	}
	for _, f := range c.flags {
		name := "--" + f.Names()[0]
		options = append(options, name)
		if f.TakesValue() {
			valued = append(valued, name)
		}
	}
	return commands, append(options, "--help"), valued
}

// bashCompletion completes commands, options, and names of volumes where one is wanted; behind an option with a value, files.
func bashCompletion(app *cli.App) string {
	var b strings.Builder
	b.WriteString("# bash completion of voluks, made from its commands\n\n_voluks_after() {\n\tcase $1 in\n")
	for _, c := range completions(app) {
		commands, options, valued := c.words()
		fmt.Fprintf(&b, "\t%q) commands=%q options=%q valued=%q names=%s ;;\n",
			c.path, strings.Join(commands, " "), strings.Join(options, " "), strings.Join(valued, " "), flag01(c.names))
	}
	_, _, global := completions(app)[0].words()
	fmt.Fprintf(&b, `	esac
}

_voluks() {
	local commands options valued names path= word i skip= global=%q
	COMPREPLY=()
	_voluks_after ""
	for ((i = 1; i < COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		if [[ -n $skip ]]; then
			skip=
		elif [[ $word == -* ]]; then
			[[ " $valued $global " != *" $word "* ]] || skip=1
		elif [[ " $commands " == *" $word "* ]]; then
			path="${path:+$path }$word"
			_voluks_after "$path"
		fi
	done
	word=${COMP_WORDS[COMP_CWORD]}
	if [[ -n $skip ]]; then
		compopt -o default 2>/dev/null
	elif [[ $word == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$options" -- "$word")
	elif [[ $names == 1 ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$(ls %s 2>/dev/null)" -- "$word")
	else
		mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$word")
	fi
}
complete -F _voluks voluks
`, strings.Join(global, " "), volumesDir)
	return b.String()
}

func flag01(on bool) string {
	if on {
		return "1"
	}
	return "0"
}

// describe gives each command and option with what it does.
func (c completed) describe(each func(word, text string, valued bool)) {
	for _, sub := range c.commands {
		each(sub.Name, sub.Usage, false)
	}
	for _, f := range c.flags {
		_, _, usage := flagText(f)
		each("--"+f.Names()[0], usage, f.TakesValue())
	}
	each("--help", "show help", false)
}

// single quotes a text for zsh and fish.
func single(s string) string {
	return "'" + strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\\`), "'", `'"'"'`) + "'"
}

// zshCompletion shows what each word does.
func zshCompletion(app *cli.App) string {
	var b strings.Builder
	b.WriteString("#compdef voluks\n# zsh completion of voluks, made from its commands\n\n_voluks_after() {\n\tlist=() valued=() names=0\n\tcase $1 in\n")
	for _, c := range completions(app) {
		var list, valued []string
		c.describe(func(word, text string, v bool) {
			list = append(list, single(strings.ReplaceAll(word, ":", `\:`)+":"+text))
			if v {
				valued = append(valued, word)
			}
		})
		fmt.Fprintf(&b, "\t%s) names=%s valued=(%s)\n\t\tlist=(%s) ;;\n", single(c.path), flag01(c.names), strings.Join(valued, " "), strings.Join(list, " "))
	}
	fmt.Fprintf(&b, `	esac
}

_voluks() {
	local -a list valued all
	local word path= skip= names
	_voluks_after ''
	all=($valued)
	for word in ${words[2,CURRENT-1]}; do
		if [[ -n $skip ]]; then
			skip=
		elif [[ $word == -* ]]; then
			(( ${all[(Ie)$word]} + ${valued[(Ie)$word]} )) && skip=1
		elif (( ${list[(I)$word:*]} )); then
			path="${path:+$path }$word"
			_voluks_after "$path"
		fi
	done
	if [[ -n $skip ]]; then
		_files
	elif (( names )) && [[ ${words[CURRENT]} != -* ]]; then
		compadd -- ${(f)"$(ls %s 2>/dev/null)"}
	else
		_describe voluks list
	fi
}
_voluks "$@"
`, volumesDir)
	return b.String()
}

// fishCompletion asks voluks_at, which tells the command that was typed so far.
func fishCompletion(app *cli.App) string {
	var b strings.Builder
	all := completions(app)
	var paths []string
	for _, c := range all[1:] {
		paths = append(paths, single(c.path))
	}
	fmt.Fprintf(&b, `# fish completion of voluks, made from its commands

function __voluks_at
    set -l path
    for word in (commandline -opc)[2..]
        set -l longer (string trim "$path $word")
        contains -- "$longer" %s; and set path $longer
    end
    test "$path" = "$argv"
end

complete -c voluks -f
`, strings.Join(paths, " "))
	for _, c := range all {
		at := single("__voluks_at " + c.path)
		c.describe(func(word, text string, valued bool) {
			if option, ok := strings.CutPrefix(word, "--"); ok {
				fmt.Fprintf(&b, "complete -c voluks -n %s -l %s -d %s", at, option, single(text))
				if valued {
					b.WriteString(" -rF")
				}
				b.WriteString("\n")
				return
			}
			fmt.Fprintf(&b, "complete -c voluks -n %s -a %s -d %s\n", at, word, single(text))
		})
		if c.names {
			fmt.Fprintf(&b, "complete -c voluks -n %s -a '(ls %s 2>/dev/null)'\n", at, volumesDir)
		}
	}
	return b.String()
}
