// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
)

// F23 F43: a key service that is away is told from everything that waiting does not mend, and looking leaves nothing behind.
func TestUnlockable(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	ask := func(name string) error { return n.Manager().Unlockable(t.Context(), name) }
	if err := ask("db"); err != nil {
		t.Errorf("with the provider there: %v", err)
	}
	clean(t, n)

	n.Provider.Fail(kek.ErrUnavailable)
	if err := ask("db"); !errors.Is(err, kek.ErrUnavailable) || !errors.Is(err, volume.ErrLocked) {
		t.Errorf("with the provider away: %v", err)
	}
	n.Provider.Fail(nil)
	mount(t, n, "db", docker("a"))
	n.Provider.Fail(kek.ErrUnavailable)
	if err := ask("db"); err != nil {
		t.Errorf("an open volume needs no key: %v", err)
	}
	n.Provider.Fail(nil)
	if err := n.Manager().Unmount(t.Context(), "db", "a"); err != nil {
		t.Fatal(err)
	}
	if err := ask("nothing"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("no volume: %v", err)
	}
	n.Damage(filepath.Join(n.Paths.VolumeDir("db"), "image"))
	if err := ask("db"); !errors.Is(err, volume.ErrDamaged) || errors.Is(err, kek.ErrUnavailable) {
		t.Errorf("a damaged header: %v", err)
	}
}
