// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/dockerplugin"
	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/volume"
)

func volumeLsCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "ls",
		Usage: "list the volumes of this node",
		Description: `Lists all volumes; what is wrong with any of them is said below the table.
It asks Docker too, and names every local Docker volume that shadows one of
ours, and every container that keeps data on a local or anonymous volume:
those are plaintext.

With --removed it lists the removed volumes that can still be brought back.

   voluks volume ls
   voluks volume ls --removed
   voluks --format json volume ls | jq -r '.volumes[].name'`,
		Flags: []cli.Flag{&cli.BoolFlag{Name: "removed", Usage: "the removed volumes instead", DisableDefaultText: true}},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			if c.Bool("removed") {
				return e.removedLs(c.Context)
			}
			return e.volumeLs(c.Context)
		},
	}
}

type listResult struct {
	Volumes  []volume.Info         `json:"volumes"`
	Bypasses []dockerplugin.Bypass `json:"bypasses"` // plaintext that Docker keeps beside them
	Warnings []string              `json:"warnings"`
}

func (e *env) volumeLs(ctx context.Context) error {
	infos, err := e.manager(e.quiet(), volume.Defaults{}).List(ctx)
	if err != nil {
		return err
	}
	result := listResult{Volumes: append([]volume.Info{}, infos...)}
	result.Bypasses, result.Warnings = e.bypasses(ctx, infos)
	if err := e.print(result, func(w io.Writer) {
		if len(infos) > 0 {
			listText(w, infos, time.Now())
		}
	}); err != nil {
		return err
	}
	if len(infos) == 0 && !e.json {
		fmt.Fprintln(e.stderr, "no volumes")
	}
	for _, info := range infos {
		e.warnOf(info)
	}
	for _, b := range result.Bypasses {
		e.warn("%s", b)
	}
	for _, w := range result.Warnings {
		e.warn("%s", w)
	}
	return nil
}

func listText(w io.Writer, infos []volume.Info, now time.Time) {
	var rows [][]string
	for _, i := range infos {
		used, key := "", ""
		if i.Used != nil {
			used = config.FormatSize(*i.Used)
		}
		if i.KeySince != nil {
			key = age(i.KeyAge(now))
		}
		size := ""
		if i.Size > 0 {
			size = config.FormatSize(i.Size)
		}
		rows = append(rows, []string{i.Name, string(i.State), size, used, i.FS, key, fmt.Sprint(len(i.Holders))})
	}
	table(w, []string{"NAME", "STATE", "SIZE", "USED", "FS", "KEY AGE", "HOLDERS"}, rows)
}

// warnOf tells what is wrong with a volume.
func (e *env) warnOf(info volume.Info) {
	if info.Reason != "" {
		e.warn("%s is %s: %s%s", info.Name, info.State, info.Reason, nextTry(info, time.Now()))
	}
	for _, w := range info.Warnings {
		e.warn("%s: %s", info.Name, w)
	}
}

// nextTry says when the agent asks again for the key of a volume, behind the reason why it is locked.
func nextTry(info volume.Info, now time.Time) string {
	if info.NextTry == nil {
		return ""
	}
	return fmt.Sprintf(" (next try in %v)", max(info.NextTry.Sub(now), 0).Round(time.Second))
}

// bypasses asks Docker. That it cannot be asked is a warning, since the answer is not known to be "none".
func (e *env) bypasses(ctx context.Context, infos []volume.Info) (found []dockerplugin.Bypass, warnings []string) {
	var names []string
	for _, info := range infos {
		names = append(names, info.Name)
	}
	found, err := e.engine().Bypasses(ctx, names)
	warnings = []string{}
	if err != nil {
		warnings = append(warnings, fmt.Sprintf("not known whether Docker keeps plaintext volumes beside these: %v", err))
	}
	return append([]dockerplugin.Bypass{}, found...), warnings
}
