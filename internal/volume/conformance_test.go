// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
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
	testenv.Outside(t)
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

// F9: a process is killed, or the power goes, between the temporary file of a write and its rename. That is nothing to anybody, and in nobody's way.
func TestOSFilesAfterAKilledWrite(t *testing.T) {
	var f volume.OSFiles
	dir := filepath.Join(t.TempDir(), "db")
	left := filepath.Join(dir, ".record.json8032441278165531209")
	leave := func() {
		t.Helper()
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(left, []byte("{"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	if names, err := f.List(dir); err != nil || len(names) > 0 {
		t.Errorf("listed %q, %v", names, err)
	}
	if err := f.Remove(dir); err != nil {
		t.Error(err)
	}
	leave()
	if err := os.WriteFile(filepath.Join(dir, "image"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Remove(dir); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("a directory with content: %v", err)
	}
	if _, err := os.Stat(left); err != nil {
		t.Errorf("something was removed all the same: %v", err)
	}
}

// The same for a creation that had only begun: the node comes up without a complaint, and the name is free.
func TestCreationKilledInItsFirstWrite(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "other")
	dir := n.Paths.VolumeDir("db")
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, ".record.json42"), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := n.Manager().Reconcile(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	create(t, n, "db")
}
