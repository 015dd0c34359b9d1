// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

//go:embed units
var embedded embed.FS

// UdevRules is what udev must be told of open volumes (F19), for the file UdevFile in a directory of its rules.
//
//go:embed udev/99-voluks.rules
var UdevRules string

// UdevFile sorts behind systemd's own rules.
const UdevFile = "99-voluks.rules"

// Program is what the units run. An installation elsewhere has Units put its own path there.
const Program = "/usr/bin/voluks"

// Unit is a file of systemd's that voluks brings along.
type Unit struct {
	Name    string // below the directory of units: "voluks.service", or "NAME.d/FILE.conf" for a drop-in
	Content string // of the file
	// WantedBy are the units that start it at boot, from its [Install] section; none for a template and the like.
	WantedBy []string
}

// Units are the units of this version, in the order of their names, running program (an absolute path).
func Units(program string) ([]Unit, error) {
	if !path.IsAbs(program) || strings.ContainsAny(program, " \t\n\"'\\%$;") {
		return nil, fmt.Errorf("units that run %q: systemd needs an absolute path without special characters", program)
	}
	var units []Unit
	err := fs.WalkDir(embedded, "units", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		content, err := embedded.ReadFile(name)
		if err != nil {
			return err
		}
		text := strings.ReplaceAll(string(content), Program+" ", program+" ")
		units = append(units, Unit{Name: strings.TrimPrefix(name, "units/"), Content: text, WantedBy: wantedBy(text)})
		return nil
	})
	return units, err
}

func wantedBy(text string) []string {
	var names []string
	for line := range strings.Lines(text) {
		if list, ok := strings.CutPrefix(line, "WantedBy="); ok {
			names = append(names, strings.Fields(list)...)
		}
	}
	return names
}
