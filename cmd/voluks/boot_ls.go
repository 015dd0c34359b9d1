// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/systemd"
)

func bootLsCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "ls",
		Usage: "list what is mounted at boot",
		Description: `Lists the mounts that "voluks boot enable" has set up, and whether they are mounted now.

   voluks boot ls`,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return e.bootLs()
		},
	}
}

func (e *env) bootLs() error {
	all, err := systemd.BootMounts(e.bootDir())
	if err != nil {
		return err
	}
	mounts, err := e.shown(all)
	if err != nil {
		return err
	}
	return e.print(map[string][]bootMount{"mounts": mounts}, func(w io.Writer) {
		if len(mounts) == 0 {
			fmt.Fprintln(e.stderr, "no volume is opened at boot")
			return
		}
		var rows [][]string
		for _, b := range mounts {
			fails := "fails"
			if b.NoFail {
				fails = "goes on"
			}
			rows = append(rows, []string{b.Volume, b.Path, yes(b.Mounted), b.Timeout, fails, yes(b.Network)})
		}
		table(w, []string{"VOLUME", "PATH", "MOUNTED", "WAITS", "WITHOUT IT", "NETWORK"}, rows)
	})
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// shown adds to boot mounts what the kernel says.
func (e *env) shown(all []systemd.BootMount) ([]bootMount, error) {
	table, err := sys.MountInfoOf("self")
	if err != nil {
		return nil, err
	}
	mounts := []bootMount{}
	for _, b := range all {
		mounted := e.root == "" && slices.ContainsFunc(table, func(m sys.MountInfo) bool { return m.Mountpoint == b.Where })
		mounts = append(mounts, bootMount{b.Volume, b.Where, b.Name(), b.NoFail, b.Timeout.String(), b.Network, mounted})
	}
	return mounts, nil
}
