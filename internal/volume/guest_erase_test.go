// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
)

// on moves the state of a node to a fresh file system on an extra disk, which then says of itself that it rotates, as only those overwrite in place.
func (r *real) on(disk, fstype, options string, mkfs ...string) (unmount func()) {
	r.t.Helper()
	run(r.t, mkfs[0], append(mkfs[1:], disk)...)
	dir := filepath.Join(r.root, "disk")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		r.t.Fatal(err)
	}
	if err := syscall.Mount(disk, dir, fstype, 0, options); err != nil {
		r.t.Fatal(err)
	}
	if err := os.WriteFile("/sys/block/"+filepath.Base(disk)+"/queue/rotational", []byte("1"), 0); err != nil {
		r.t.Fatal(err)
	}
	mounted := true
	unmount = func() {
		if mounted {
			mounted = false
			if err := syscall.Unmount(dir, 0); err != nil {
				r.t.Error(err)
			}
		}
	}
	r.t.Cleanup(unmount)
	r.paths.State = dir
	return unmount
}

// pieces are parts of a header by which it is found on a raw disk: of both copies of the metadata (they hold salts and tokens), and of each key slot.
func pieces(t *testing.T, image string) (all [][]byte) {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const (
		copyOf   = 64 << 10
		slotArea = 252 << 10 // of a 512-bit key in 4,000 stripes, rounded up
	)
	for _, at := range []int64{4096 + 512, copyOf + 4096 + 512, 2 * copyOf, 2*copyOf + 8192, 2*copyOf + slotArea + 8192} {
		b := make([]byte, 64)
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		if bytes.Count(b, []byte{0}) > 32 {
			t.Fatalf("nothing to look for at %d", at)
		}
		all = append(all, b)
	}
	return all
}

// findRaw counts how many of the pieces are on a disk, past the page cache.
func findRaw(t *testing.T, disk string, pieces [][]byte) (found int) {
	t.Helper()
	d, err := sys.OpenDirect(disk, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const (
		chunk   = 4 << 20
		overlap = 64
	)
	seen := map[int]bool{}
	buf := make([]byte, chunk+overlap)
	for at := int64(0); at < d.Size(); at += chunk {
		b := buf[:min(chunk+overlap, d.Size()-at)]
		if _, err := d.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		for i, p := range pieces {
			if bytes.Contains(b, p) {
				seen[i] = true
			}
		}
	}
	return len(seen)
}

// What a receipt says is what a search of the raw disk finds: "overwritten in place" means that no piece of the header is left anywhere, and wherever
// something is left the receipt is "logical only" and says why. F6
func TestGuestEraseTellsTheTruth(t *testing.T) {
	disk := testenv.Disk(t, 0, 512<<20)
	for _, c := range []struct {
		name, fstype, options string
		mkfs                  []string
		spoil                 func(t *testing.T, image string)
		how, why              string
		copyLeft              bool // a copy of the header is known to be there
	}{
		{name: "ext4", fstype: "ext4", mkfs: []string{"mkfs.ext4", "-q", "-F"}, how: volume.OverwrittenInPlace},
		{name: "xfs", fstype: "xfs", mkfs: []string{"mkfs.xfs", "-q", "-f"}, how: volume.OverwrittenInPlace},
		{name: "btrfs", fstype: "btrfs", mkfs: []string{"mkfs.btrfs", "-q", "-f"}, how: volume.LogicalOnly, why: "copy-on-write"},
		{name: "reflink", fstype: "xfs", mkfs: []string{"mkfs.xfs", "-q", "-f"}, how: volume.LogicalOnly, why: "shares", copyLeft: true,
			spoil: func(t *testing.T, image string) { run(t, "cp", "--reflink=always", image, image+".copy") }},
		{name: "data=journal", fstype: "ext4", options: "data=journal", mkfs: []string{"mkfs.ext4", "-q", "-F"}, how: volume.LogicalOnly, why: "journal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReal(t)
			unmount := r.on(disk, c.fstype, c.options, c.mkfs...)
			info := r.create("db")
			r.mount("db", "a")
			r.unmount("db", "a")
			pieces := pieces(t, r.image("db"))
			syscall.Sync()
			if found := findRaw(t, disk, pieces); found != len(pieces) {
				t.Fatalf("the control: %d of %d pieces of the header are found", found, len(pieces))
			}
			if err := r.manager().Remove(t.Context(), "db"); err != nil {
				t.Fatal(err)
			}
			if c.spoil != nil {
				c.spoil(t, filepath.Join(r.paths.RemovedDir(), info.UUID, "image"))
			}
			receipt, err := r.manager().Erase(t.Context(), seen(t, r.manager(), info.UUID))
			if err != nil {
				t.Fatal(err)
			}
			if receipt.Header.How != c.how || !strings.Contains(strings.Join(receipt.Header.Reasons, "; "), c.why) {
				t.Errorf("receipt %+v", receipt.Header)
			}
			unmount()
			found := findRaw(t, disk, pieces)
			t.Logf("%s: %q, %d of %d pieces left %v", c.name, receipt.Header.How, found, len(pieces), receipt.Header.Reasons)
			if found > 0 && receipt.Header.How == volume.OverwrittenInPlace {
				t.Errorf("%d pieces of the header are left on the disk, and the receipt says %q", found, receipt.Header.How)
			}
			if c.copyLeft && found == 0 {
				t.Error("the search does not find the copy that is there")
			}
		})
	}
}

// An erasure that is killed at any of its named points is finished by the next one, and nothing brings the volume back meanwhile. What is brought back
// and killed is whole. F27
func TestGuestKillEraseAndUndelete(t *testing.T) {
	r := newReal(t)
	gone := func(m *volume.Manager, id string) error { _, err := m.Erase(t.Context(), seen(t, m, id)); return err }
	again := func(m *volume.Manager, id string) error { _, err := m.Undelete(t.Context(), id); return err }
	tomb := func() string {
		t.Helper()
		info := r.create("db")
		r.put(r.mount("db", "a"), canary)
		r.unmount("db", "a")
		if err := r.manager().Remove(t.Context(), "db"); err != nil {
			t.Fatal(err)
		}
		return info.UUID
	}
	id := tomb()
	for _, point := range r.points(func(m *volume.Manager) error { return again(m, id) }) {
		if err := r.manager().Remove(t.Context(), "db"); err != nil {
			t.Fatal(err)
		}
		r.kill(point, order{Op: "undelete", Name: id})
		if err := again(r.manager(), id); err != nil && !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("undelete after a kill at %s: %v", point, err)
		}
		r.get(r.mount("db", "b"), canary)
		r.unmount("db", "b")
	}
	if err := r.manager().Remove(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	for _, point := range r.points(func(m *volume.Manager) error { return gone(m, id) }) {
		id := tomb()
		r.kill(point, order{Op: "erase", Name: id})
		if err := again(r.manager(), id); err == nil {
			t.Errorf("brought back after a kill at %s", point)
		}
		if err := gone(r.manager(), id); err != nil && !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("erase after a kill at %s: %v", point, err)
		}
		if entries, err := os.ReadDir(r.paths.RemovedDir()); err != nil || len(entries) > 0 {
			t.Errorf("after a kill at %s: left %v, %v", point, entries, err)
		}
	}
	r.clean()
}

// On a logical volume, thick and thin: the header goes, the space is released, and the receipt says what thin means. A snapshot that somebody made of it
// is neither removed with it nor left with a copy of the header.
func TestGuestEraseLVM(t *testing.T) {
	disk := testenv.Disk(t, 1, 512<<20)
	r := newReal(t)
	vg := group(t, disk)
	r.allow(nil, []string{vg})
	for _, options := range [][]string{{"size=33M"}, {"size=65M", "pool=pool"}} {
		info := r.create("db", append(options, "backing=lvm", "vg="+vg)...)
		snapshot := []string{"lvcreate", "--snapshot", "--name", "keep", vg + "/voluks-" + info.UUID}
		if len(options) == 1 {
			snapshot = append(snapshot, "--size", "16M")
		}
		run(t, snapshot[0], snapshot[1:]...)
		lv := backing.LVAt(vg, "", info.UUID)
		_, erase := lv.Erase(t.Context())
		for what, err := range map[string]error{"rm": r.manager().Remove(t.Context(), "db"), "erase": erase, "release": lv.Remove(t.Context())} {
			if err == nil || !strings.Contains(err.Error(), vg+"/keep is a snapshot of it") || !errors.Is(err, volume.ErrInUse) && !errors.Is(err, backing.ErrInUse) {
				t.Errorf("%s with a snapshot: %v", what, err)
			}
		}
		run(t, "lvremove", "--yes", vg+"/keep")
		if err := r.manager().Remove(t.Context(), "db"); err != nil {
			t.Fatal(err)
		}
		receipt, err := r.manager().Erase(t.Context(), seen(t, r.manager(), info.UUID))
		thin := len(options) > 1
		if err != nil || thin && !strings.Contains(fmt.Sprint(receipt.Header.Reasons), "thin") {
			t.Errorf("%+v, %v", receipt, err)
		}
		if left := run(t, "lvs", "--noheadings", "--options", "lv_name", vg); strings.Contains(left, info.UUID) {
			t.Errorf("left: %s", left)
		}
	}
}
