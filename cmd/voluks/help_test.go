// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// Every help teaches with an example and ends with the exit statuses, and fits a terminal.
func TestHelp(t *testing.T) {
	app := newApp(newEnv())
	explain(app)
	texts := map[string]string{"voluks": app.CustomAppHelpTemplate}
	leaves := map[string]bool{}
	var walk func(parent string, commands []*cli.Command)
	walk = func(parent string, commands []*cli.Command) {
		for _, c := range commands {
			name := parent + " " + c.Name
			texts[name] = c.CustomHelpTemplate
			if len(c.Subcommands) == 0 {
				leaves[name] = true
			}
			walk(name, c.Subcommands)
		}
	}
	walk("voluks", app.Commands)
	for name, text := range texts {
		if !strings.Contains(text, "\nEXIT STATUS:\n     0  done\n") {
			t.Errorf("%s --help has no EXIT STATUS:\n%s", name, text)
		}
		if leaves[name] && name != "voluks worker" && !strings.Contains(text, "\n      "+name) && !strings.Contains(text, "\n      cd \"$("+name) && name != "voluks serve" {
			t.Errorf("%s --help shows no example:\n%s", name, text)
		}
		for line := range strings.Lines(text) {
			if len(strings.TrimRight(line, "\n")) > 98 || strings.HasSuffix(line, " \n") {
				t.Errorf("%s --help: %d columns: %q", name, len(line)-1, line)
			}
		}
		if strings.Contains(text, "{{") {
			t.Errorf("%s --help is taken for a template", name)
		}
	}
	for name := range leaves {
		if _, ok := exitsOf[name]; !ok {
			t.Errorf("%s has no exit statuses", name)
		}
	}
	for name := range exitsOf {
		if !leaves[name] {
			t.Errorf("%s has exit statuses and is no command", name)
		}
	}
}
