// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"os"
	"path/filepath"
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

func TestOSFiles(t *testing.T) { volumetest.FilesConformance(t, volume.OSFiles{}, t.TempDir()) }

// What is not a file or directory of ours is not followed and not replaced.
func TestOSFilesAndLinks(t *testing.T) {
	dir := t.TempDir()
	link, target := filepath.Join(dir, "link"), filepath.Join(dir, "target")
	if err := os.WriteFile(target, []byte("theirs"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	var f volume.OSFiles
	if _, err := f.Read(link, 100); err == nil {
		t.Error("a link was read through")
	}
	if err := f.Write(link, []byte("ours")); err == nil {
		t.Error("a link was replaced")
	}
	if err := f.Mkdir(link, 0o700); err == nil {
		t.Error("a link passes for a directory")
	}
	if b, err := os.ReadFile(target); err != nil || string(b) != "theirs" {
		t.Errorf("%q, %v", b, err)
	}
}
