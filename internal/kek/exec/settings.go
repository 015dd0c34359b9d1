// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unicode"

	"github.com/voluks/voluks/internal/kek"
)

// maxID keeps the name of a key, which stands in every header, to a name.
const maxID = 128

// Settings say which program keeps the key.
type Settings struct {
	// At is the dotted name of these settings in the configuration, for errors: "kek.exec".
	At string
	// Command is the program, by absolute path, and its arguments, which everybody on the node can read.
	Command []string
	// ID is the public name of the key that the program uses. Another key needs another name.
	ID string
}

func (s *Settings) bad(setting, format string, args ...any) error {
	return &kek.ConfigError{Setting: s.At + "." + setting, Err: fmt.Errorf(format, args...)}
}

func (s *Settings) check() error {
	switch {
	case len(s.Command) == 0:
		return s.bad("command", `is missing; it is a list: ["/PATH/OF/PROGRAM", "ARGUMENT"]`)
	case !filepath.IsAbs(s.Command[0]):
		return s.bad("command", "%q is not the absolute path of a program", s.Command[0])
	case s.ID == "":
		return s.bad("id", "is missing; it is a name of your choice for the key that the program uses")
	case len(s.ID) > maxID || strings.ContainsFunc(s.ID, func(r rune) bool { return !unicode.IsGraphic(r) || r == unicode.ReplacementChar }):
		return s.bad("id", "is not a printable text of at most %d bytes", maxID)
	}
	for _, argument := range s.Command {
		if strings.ContainsRune(argument, 0) {
			return s.bad("command", "has a zero byte in it")
		}
	}
	return s.checkProgram(s.Command[0])
}

// checkProgram refuses a program that others could replace: it is run as root, and handed keys. The directories above it are the administrator's to
// look after, as for everything in them.
func (s *Settings) checkProgram(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return s.bad("command", "there is no program %s", path)
	}
	if err != nil {
		return s.bad("command", "%w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch mode := info.Mode(); {
	case !mode.IsRegular():
		return s.bad("command", "%s is not a file", path)
	case mode.Perm()&0o111 == 0:
		return s.bad("command", "%s is not executable (mode %04o)", path, mode.Perm())
	case mode.Perm()&0o022 != 0:
		return s.bad("command", "%s can be changed by its group or by others (mode %04o)", path, mode.Perm())
	case !ok || stat.Uid != 0 && int(stat.Uid) != os.Geteuid():
		return s.bad("command", "%s belongs to user %d, who could change it", path, stat.Uid)
	}
	return nil
}
