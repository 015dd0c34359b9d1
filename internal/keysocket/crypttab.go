// SPDX-License-Identifier: Apache-2.0

package keysocket

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/voluks/voluks/internal/atomicfile"
)

// Line is one line of crypttab(5).
type Line struct {
	Name    string // of the mapping
	Device  string // as it is written: a path, or "UUID=..."
	KeyFile string // "" for "-" and "none"
	Options string // as the line has them
}

const maxCrypttab = 1 << 20

// ErrNoLine says that crypttab has no line for a volume.
var ErrNoLine = errors.New("there is no such line in crypttab")

// find reads the line of a volume.
func find(path, name string) (Line, error) {
	b, err := atomicfile.Read(path, maxCrypttab)
	if errors.Is(err, os.ErrNotExist) {
		return Line{}, fmt.Errorf("%s: %w", name, ErrNoLine)
	}
	if err != nil {
		return Line{}, err
	}
	lines := parse(string(b))
	for _, l := range lines {
		if l.Name == name {
			return l, nil
		}
	}
	return Line{}, fmt.Errorf("%s: %w", name, ErrNoLine)
}

// parse reads crypttab: fields between blanks, the first two of which must be there; characters may be written as \ooo. Like systemd it passes over a
// line that it does not understand, which keeps nobody else's device closed.
func parse(text string) []Line {
	var lines []Line
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0][0] == '#' {
			continue
		}
		for i := range f {
			f[i] = unescape(f[i])
		}
		l := Line{Name: f[0], Device: f[1]}
		if len(f) > 2 && f[2] != "-" && f[2] != "none" {
			l.KeyFile = f[2]
		}
		if len(f) > 3 {
			l.Options = f[3]
		}
		lines = append(lines, l)
	}
	return lines
}

func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// device is the path of the device that a line means, and its LUKS UUID if the line says so.
func (l Line) device(dev string) (path, uuid string, err error) {
	tag, value, tagged := strings.Cut(l.Device, "=")
	value = strings.Trim(value, `"`)
	if !tagged || strings.HasPrefix(l.Device, "/") {
		if !filepath.IsAbs(l.Device) {
			return "", "", fmt.Errorf("the device %q in crypttab is no path", l.Device)
		}
		return l.Device, "", nil
	}
	dirs := map[string]string{"UUID": "by-uuid", "PARTUUID": "by-partuuid", "LABEL": "by-label", "PARTLABEL": "by-partlabel"}
	dir, known := dirs[tag]
	if !known || value == "" || strings.ContainsAny(value, "/") {
		return "", "", fmt.Errorf("the device %q in crypttab is not understood", l.Device)
	}
	if tag == "UUID" || tag == "PARTUUID" {
		value = strings.ToLower(value)
	}
	if tag == "UUID" {
		uuid = value
	}
	return filepath.Join(dev, "disk", dir, value), uuid, nil
}
