// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/urfave/cli/v2"
)

func generateCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "generate",
		Usage:     "write manual pages and completions for packages",
		ArgsUsage: "DIR",
		Description: `Writes the manual to DIR/man1, and the completions to DIR/bash, DIR/zsh and DIR/fish. They are
made from the commands of this program. The date in the manual is SOURCE_DATE_EPOCH if that is
set.

   voluks generate dist/generated`,
		Hidden: true,
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "DIR")
			if err != nil {
				return err
			}
			return generate(newApp(e), args[0])
		},
	}
}

// generate writes everything that is made from the commands.
func generate(app *cli.App, dir string) error {
	date := time.Now()
	if epoch, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		date = time.Unix(epoch, 0)
	}
	files := map[string]string{
		"bash/voluks":      bashCompletion(app),
		"zsh/_voluks":      zshCompletion(app),
		"fish/voluks.fish": fishCompletion(app),
	}
	for name, page := range manual(app, date.UTC().Format(time.DateOnly)) {
		files["man1/"+name] = page
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("generate: %w", err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return fmt.Errorf("generate: %w", err)
		}
	}
	return nil
}

// visible are the commands that people are told of.
func visible(commands []*cli.Command) []*cli.Command {
	var shown []*cli.Command
	for _, c := range commands {
		if !c.Hidden {
			shown = append(shown, c)
		}
	}
	return shown
}
