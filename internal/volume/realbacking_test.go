// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/voluks/voluks/internal/volume"
)

// F9: an image appears under its name only when it is whole; what a killed creation left of one is made anew, and goes with a removal.
func TestImageOfAKilledCreation(t *testing.T) {
	dir := t.TempDir()
	half := filepath.Join(dir, "image.new")
	leave := func() {
		t.Helper()
		if err := os.WriteFile(half, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := volume.NewStorage(volume.StorageOptions{}).Backings.At(volume.Place{Kind: volume.BackingImage, Dir: dir})
	leave()
	if _, err := b.Size(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half an image counts as one: %v", err)
	}
	if err := b.Create(t.Context(), 20<<20, volume.AllocSparse); err != nil {
		t.Fatal(err)
	}
	if size, err := b.Size(t.Context()); err != nil || size != 20<<20 {
		t.Errorf("size %d, %v", size, err)
	}
	leave()
	if err := b.Remove(t.Context()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
