// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// HideInput keeps the terminal f from showing what is typed, until show is called. Lines, signals and everything else are as before.
func HideInput(f *os.File) (show func() error, err error) {
	before, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("hide what is typed: %w", err)
	}
	hidden := *before
	hidden.Lflag &^= unix.ECHO
	hidden.Lflag |= unix.ECHONL
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &hidden); err != nil {
		return nil, fmt.Errorf("hide what is typed: %w", err)
	}
	return func() error { return unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, before) }, nil
}
