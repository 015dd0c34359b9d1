// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// While an image is attached, its header is read and written through the loop device, past all caches.
func TestThroughLoop(t *testing.T) {
	testenv.Guest(t)
	n, v := newNode(t), newVolume(t, testUUID)
	image, err := os.OpenFile(v.Path(), os.O_RDWR, 0)
	must(t, err)
	defer image.Close()
	loop, held, err := sys.LoopAttach(t.Context(), image, 512)
	must(t, err)
	defer held.Close()
	attached := &volume{Container: luks.At(loop.Path), keys: v.keys}

	i := openBackup(t, n, take(t, n, attached))
	attached.rotate(t, 31, 29)
	_, err = n.Restore(attached.open(), i, RestoreOptions{Expect: v.expect(), AcceptOlder: true})
	must(t, err)
	if !attached.opens(31) || !attached.opens(30) || attached.opens(29) {
		t.Error("the device does not have the header of the backup")
	}
}

// F29, with the kernel's own record: the power goes after each write that reached the disk, in the order of the disk.
func TestPowerCutsOnARecordedDisk(t *testing.T) {
	testenv.Guest(t)
	n, v := newNode(t), newVolume(t, testUUID)
	i := openBackup(t, n, take(t, n, v))
	v.rotate(t, 31, 29)
	r := testenv.Record(t, "headerbackup-recorded", v.bytes(t))
	o := RestoreOptions{Expect: v.expect(), AcceptOlder: true}
	_, err := n.Restore(Of(luks.At(r.Path)), i, o)
	must(t, err)

	path := filepath.Join(t.TempDir(), "disk")
	cuts, flushes, areas := 0, 0, -1
	r.Replay(t, func(disk []byte, w testenv.Write) {
		if w.Flush {
			flushes++
		}
		if w.To == w.From {
			return
		}
		if w.To <= 2*header.DefaultMetadataSize && areas < 0 {
			areas = flushes
		}
		cuts++
		d := &memory{head: bytes.Clone(disk[:headSize]), size: int64(len(disk))}
		stillOpens(t, v, d, i, []int{30, 29})
		must(t, os.WriteFile(path, disk, 0o600))
		_, err := n.Restore(Of(luks.At(path)), i, o)
		must(t, err)
		if c := luks.At(path); c.TestSlot(31, v.keys[31]) != nil || c.TestSlot(30, v.keys[30]) != nil {
			t.Errorf("cut %d: restored again it does not open", cuts)
		}
	})
	if cuts < 4 || areas < 1 || flushes < 4 {
		t.Errorf("%d cuts, %d flushes, of which %d before the metadata", cuts, flushes, areas)
	}
}
