// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/luks"
)

// F5: what lies in the file system does not decide what the volume is, and neither does the file system's UUID, which its owner can change. The record
// says what to find; anything else is an error, and never a reason to make a file system.
func TestGuestMisleadingContent(t *testing.T) {
	r := newReal(t)
	info := r.create("db")
	header, err := os.ReadFile(r.image("db"))
	if err != nil {
		t.Fatal(err)
	}
	header = header[:1<<20]
	path := r.mount("db", "a")
	r.put(path, canary)
	if err := os.WriteFile(filepath.Join(path, "inner"), header, 0o600); err != nil {
		t.Fatal(err)
	}
	// ext4 leaves the first KiB to boot loaders, so a header of LUKS can stand in front of it.
	mapping := "/dev/mapper/" + luks.MappingName(info.UUID)
	fsUUID := strings.TrimSpace(run(t, "blkid", "-p", "-s", "UUID", "-o", "value", mapping))
	f, err := os.OpenFile(mapping, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(header[:512], 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	bare := func() { t.Helper(); run(t, "umount", r.paths.Mount("db")) }
	bare()
	again := func(what string) error {
		t.Helper()
		path, err := r.manager().Mount(t.Context(), "db", docker("a"))
		if err == nil {
			r.get(path, canary)
		}
		if _, made, err := r.manager().Create(t.Context(), r.spec("db")); made || err != nil {
			t.Errorf("%s: created again: made %t, %v", what, made, err)
		}
		return err
	}
	if err := again("a LUKS header in front of the file system"); err != nil {
		t.Errorf("what is expected is there, behind the head of something else: %v", err)
	} else {
		bare()
	}
	rename := func(to string) {
		t.Helper()
		run(t, "e2fsck", "-fy", mapping)
		run(t, "tune2fs", "-U", to, mapping)
	}
	rename(uuid.NewString())
	if err := again("another UUID"); !errors.Is(err, volume.ErrDamaged) {
		t.Errorf("another UUID: %v", err)
	}
	rename(fsUUID)
	if err := again("as it was"); err != nil {
		t.Fatal(err)
	}
	r.unmount("db", "a")
	r.clean()
}
