// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/dockerplugin"
	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/volume"
)

func volumeInspectCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "inspect",
		Usage:     "show all there is to know about a volume",
		ArgsUsage: "NAME",
		Description: `Shows state, options, holders and key slots of a volume, and warns of a
plaintext Docker volume that shadows it. It touches no device, so it
answers for a volume that is stuck too.

   voluks volume inspect db
   voluks --format json volume inspect db | jq .holders`,
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "NAME")
			if err != nil {
				return err
			}
			return e.volumeInspect(c.Context, args[0])
		},
	}
}

type inspectResult struct {
	volume.Info
	Bypasses []dockerplugin.Bypass `json:"bypasses"` // plaintext volumes of Docker that shadow this one
}

func (e *env) volumeInspect(ctx context.Context, name string) error {
	info, err := e.manager(e.quiet(), volume.Defaults{}).Inspect(ctx, name)
	if err != nil {
		return err
	}
	result := inspectResult{Info: info, Bypasses: []dockerplugin.Bypass{}}
	found, warnings := e.bypasses(ctx, []volume.Info{info})
	for _, b := range found {
		if b.Kind == dockerplugin.Shadow {
			result.Bypasses = append(result.Bypasses, b)
		}
	}
	result.Warnings = append(slices.Clone(info.Warnings), warnings...)
	if err := e.print(result, func(w io.Writer) { inspectText(w, info, time.Now()) }); err != nil {
		return err
	}
	for _, b := range result.Bypasses {
		e.warn("%s", b)
	}
	for _, w := range result.Warnings {
		e.warn("%s", w)
	}
	return nil
}

// inspectText writes what is known, one line each.
func inspectText(w io.Writer, i volume.Info, now time.Time) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	// Of a damaged volume little is known; what is not is left out.
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(t, "%s\t%s\n", name, value)
		}
	}
	line("Name", i.Name)
	line("State", string(i.State))
	line("Reason", i.Reason+nextTry(i, now))
	size := ""
	if i.Size > 0 {
		size = config.FormatSize(i.Size)
	}
	if i.Used != nil {
		size += ", " + config.FormatSize(*i.Used) + " used"
	}
	if i.Avail != nil {
		size += ", " + config.FormatSize(*i.Avail) + " free"
	}
	line("Size", size)
	line("Path", i.Mountpoint)
	line("File system", i.FS)
	line("Backing", i.Backing)
	line("Cipher", i.Cipher)
	line("Workqueue", i.Workqueue)
	line("UUID", i.UUID)
	if !i.Created.IsZero() {
		line("Created", i.Created.Local().Format(time.RFC3339))
	}
	var options []string
	for _, name := range slices.Sorted(maps.Keys(i.Options)) {
		options = append(options, name+"="+i.Options[name])
	}
	line("Options", strings.Join(options, " "))
	for n, s := range i.Slots {
		line(first(n, "Key slots"), slotText(s, now))
	}
	if i.Drill != nil {
		line("Drill", fmt.Sprintf("the recovery identity last opened it %s ago", age(now.Sub(i.Drill.At))))
	}
	for n, h := range i.Holders {
		line(first(n, "Holders"), holderText(h, now))
	}
	t.Flush()
}

// first gives the name to the first line of several.
func first(n int, name string) string {
	if n == 0 {
		return name
	}
	return ""
}

func slotText(s volume.SlotInfo, now time.Time) string {
	text := fmt.Sprintf("%d: %s", s.Number, s.Role)
	if s.KEK != "" {
		text += ", wrapped by " + s.KEK
	}
	if len(s.Recipients) > 0 {
		text += ", sealed to " + strings.Join(s.Recipients, ", ")
	}
	if !s.Created.IsZero() {
		text += fmt.Sprintf(", key is %s old", age(now.Sub(s.Created)))
	}
	return text
}

func holderText(h volume.Holder, now time.Time) string {
	text := fmt.Sprintf("%s %q", h.Kind, h.ID)
	if h.PID > 0 {
		text += fmt.Sprintf(", by %s (pid %d)", h.Comm, h.PID)
	}
	if !h.Since.IsZero() {
		text += fmt.Sprintf(", since %s", age(now.Sub(h.Since)))
	}
	return text
}
