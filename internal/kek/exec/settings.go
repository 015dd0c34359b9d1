// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
)

// maxID keeps the name of a key, which stands in every header, to a name.
const maxID = 128

func check(at kek.Table, s config.Exec) error {
	switch {
	case len(s.Command) == 0:
		return at.Bad("command", `is missing; it is a list: ["/PATH/OF/PROGRAM", "ARGUMENT"]`)
	case !filepath.IsAbs(s.Command[0]):
		return at.Bad("command", "%q is not the absolute path of a program", s.Command[0])
	case strings.Contains(strings.Join(s.Command, ""), "\x00"):
		return at.Bad("command", "has a zero byte in it")
	case s.ID == "":
		return at.Bad("id", "is missing; it is a name of your choice for the key that the program uses")
	case len(s.ID) > maxID || strings.ContainsFunc(s.ID, func(r rune) bool { return !unicode.IsGraphic(r) || r == unicode.ReplacementChar }):
		return at.Bad("id", "is not a printable text of at most %d bytes", maxID)
	}
	return checkProgram(at, s.Command[0])
}

// checkProgram refuses a program that others could replace: it is run as root, and handed keys. The directories above it are the administrator's to
// look after, as for everything in them.
func checkProgram(at kek.Table, path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return at.Bad("command", "there is no program %s", path)
	}
	if err != nil {
		return at.Bad("command", "%w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return at.Bad("command", "%s is not a file", path)
	case mode.Perm()&0o111 == 0:
		return at.Bad("command", "%s is not executable (mode %04o)", path, mode.Perm())
	case mode.Perm()&0o022 != 0:
		return at.Bad("command", "%s can be changed by its group or by others (mode %04o)", path, mode.Perm())
	case !ok || stat.Uid != 0 && int(stat.Uid) != os.Geteuid():
		return at.Bad("command", "%s belongs to user %d, who could change it", path, stat.Uid)
	}
	return nil
}
