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
	f, err := sys.OpenRegular(i.path, true)
	if errors.Is(err, os.ErrNotExist) {
		return i.syncGone()
	}
	if err != nil {
		return fmt.Errorf("remove image: %w", err)
	}
	defer f.Close()
	// With the lock in hand nobody can attach it through this package between the look and the deed.
	if err := sys.TryLock(f); err != nil {
		if errors.Is(err, sys.ErrLocked) {
			err = fmt.Errorf("%w: %w", err, ErrInUse)
		}
		return fmt.Errorf("remove image: %w", err)
	}
	loops, err := sys.LoopsOver(f)
	if err != nil {
		return fmt.Errorf("remove image: %w", err)
	}
	if len(loops) > 0 {
		return fmt.Errorf("remove image: %s: bound to %s: %w", i.path, names(loops), ErrInUse)
	}
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
