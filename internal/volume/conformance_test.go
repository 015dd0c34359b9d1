// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"testing"

	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
	"github.com/voluks/voluks/luks"
)

func TestMain(m *testing.M) {
	child()
	// libcryptsetup opens its sources of randomness once and keeps them.
	if _, err := luks.Version(); err != nil {
		panic(err)
	}
	testenv.Main(m)
}

// What the tests of this package run on is like the real thing, in everything that the package relies on: both pass the same suite.
func TestConformanceOfTheFake(t *testing.T) {
	volumetest.Conformance(t, func(t *testing.T) (volume.Storage, string) {
		m := volumetest.NewMachine(t)
		t.Cleanup(func() {
			if left := m.Tables(); len(left) > 0 {
				t.Errorf("the kernel still has %v", left)
			}
		})
		return m.Process().Storage(), t.TempDir()
	})
}

func TestGuestConformance(t *testing.T) {
	volumetest.Conformance(t, func(t *testing.T) (volume.Storage, string) {
		newReal(t)
		return volume.NewStorage(volume.StorageOptions{}), t.TempDir()
	})
}
