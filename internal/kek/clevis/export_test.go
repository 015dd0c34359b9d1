// SPDX-License-Identifier: Apache-2.0

package clevis

import (
	"path/filepath"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
)

// Searched is where New looks.
const Searched = searched

// NewIn is New for tests with programs of their own. The PIN of a token is in "pin", beside the first of them.
func NewIn(path string, at kek.Table, s config.Clevis) (kek.Provider, error) {
	return newIn(path, filepath.Join(filepath.SplitList(path)[0], "pin"), at, s)
}
