// SPDX-License-Identifier: Apache-2.0

package backing

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/voluks/voluks/internal/sys"
)

// Remove deletes the image file, durably. It refuses with ErrInUse while any loop device is bound to it or somebody has it locked. A missing image is
// no error, so that a removal that was cut short can be finished.
func (i *Image) Remove() error {
	f, err := i.alone()
	if errors.Is(err, os.ErrNotExist) {
		return i.syncGone()
	}
	if err != nil {
		return fmt.Errorf("remove image: %w", err)
	}
	defer f.Close()
	if err := os.Remove(i.path); err != nil {
		return fmt.Errorf("remove image: %w", err)
	}
	return i.syncGone()
}

func (i *Image) syncGone() error {
	err := sys.SyncDir(filepath.Dir(i.path))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove image: %w", err)
	}
	return nil
}
