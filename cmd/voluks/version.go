// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/luks"
)

// version is set by the Makefile: -ldflags "-X main.version=...".
var version = ""

type versions struct {
	Version       string `json:"version"`
	Commit        string `json:"commit,omitempty"`
	Modified      bool   `json:"modified,omitempty"` // built from a tree with changes
	Go            string `json:"go"`
	Libcryptsetup string `json:"libcryptsetup"`
}

func versionCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "version",
		Usage: "show the versions of voluks and of what it is built on",
		Description: `Shows the version of voluks, the commit that it was built from if that is
known, the libcryptsetup of this machine, and the version of Go.

   voluks version
   voluks --format json version`,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			v, err := readVersions()
			if err != nil {
				return err
			}
			return e.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "voluks %s", v.Version)
				if v.Commit != "" {
					fmt.Fprintf(w, " (commit %s", v.Commit[:min(12, len(v.Commit))])
					if v.Modified {
						fmt.Fprint(w, ", modified")
					}
					fmt.Fprint(w, ")")
				}
				fmt.Fprintf(w, "\nlibcryptsetup %s\n%s\n", v.Libcryptsetup, v.Go)
			})
		},
	}
}

func readVersions() (versions, error) {
	library, err := luks.Version()
	if err != nil {
		return versions{}, fmt.Errorf("ask libcryptsetup for its version: %w", err)
	}
	v := versions{Version: version, Go: runtime.Version(), Libcryptsetup: library}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v, nil
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	if v.Version == "" {
		v.Version = info.Main.Version
	}
	return v, nil
}
