// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/voluks/voluks/internal/kek"
)

const maxLine = 4 << 10

// Line reads the one line of text that a file holds, a token for example, without the newline that editors add. A file that everybody on the node can
// read is refused; its group may have a reason. It is a string, since net/http and os/exec take no others, and cannot be wiped. Errors name the setting;
// that of a file that does not exist is kek.ErrUnavailable too, since at boot, whoever writes it may come later.
func Line(at kek.Table, setting, path string) (string, error) {
	text, err := line(path)
	if err != nil {
		err = at.Bad(setting, "%w", err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", kek.ErrUnavailable, err)
	}
	return text, err
}

func line(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", fmt.Errorf("%s is not a regular file", path)
	case info.Mode().Perm()&0o007 != 0:
		return "", fmt.Errorf("%s is open to everybody on this node (mode %04o); make it 0600", path, info.Mode().Perm())
	}
	raw, err := Read(f, maxLine)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	defer raw.Wipe()
	text := strings.TrimSpace(string(raw.Bytes()))
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", fmt.Errorf("%s does not hold one line of text", path)
	}
	return text, nil
}
