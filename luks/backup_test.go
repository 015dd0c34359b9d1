// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"bytes"
	"os"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks/header"
)

func TestRaw(t *testing.T) {
	c := formatted(t, randomKey(t))
	r, err := c.Raw(false)
	must(t, err)
	h, err := header.Read(r, r.Size())
	must(t, err)
	if h.UUID != testUUID {
		t.Errorf("UUID %s", h.UUID)
	}
	must(t, r.Close())

	w, err := c.Raw(true)
	must(t, err)
	block := bytes.Repeat([]byte{7}, 4096)
	_, err = w.WriteAt(block, 20<<20)
	must(t, err)
	must(t, w.Sync())
	all, err := os.ReadFile(c.Path())
	must(t, err)
	if !bytes.Equal(all[20<<20:][:4096], block) {
		t.Error("not written")
	}
	must(t, w.Close())
	_, err = At(c.Path() + "x").Raw(false)
	wantError(t, err, os.ErrNotExist)
}

// Who writes the header of an image file has it alone, and gives it back.
func TestRawLocks(t *testing.T) {
	c := formatted(t, randomKey(t))
	other, err := os.Open(c.Path())
	must(t, err)
	defer other.Close()

	w, err := c.Raw(true)
	must(t, err)
	wantError(t, sys.TryLock(other), sys.ErrLocked)
	must(t, w.Close())
	must(t, sys.TryLock(other))

	// Now it is somebody else's: reading needs no lock, writing waits some seconds and gives up.
	r, err := c.Raw(false)
	must(t, err)
	must(t, r.Close())
	began := time.Now()
	if w, err = c.Raw(true); w != nil {
		t.Error("opened for writing")
	}
	wantError(t, err, ErrBusy)
	if took := time.Since(began); took < lockWait || took > 10*lockWait {
		t.Errorf("gave up after %v", took)
	}
}
