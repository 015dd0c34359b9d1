// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/luks"
)

// grew looks whether the mapping of a mounted volume has exactly the size (F8), and its file system about that.
func (r *real) grew(name, path string, size int64) {
	r.t.Helper()
	info := r.inspect(name)
	extent := int64(1)
	if info.Backing == volume.BackingLVM { // which rounds up to that
		extent = 4 << 20
	}
	device, err := sys.BlockDeviceSize("/dev/mapper/" + luks.MappingName(info.UUID))
	if err != nil || info.Size != size || device < size || device >= size+extent || len(info.Warnings) > 0 {
		r.t.Errorf("the mapping has %d bytes, wanted are %d: %+v, %v", device, size, info, err)
	}
	if st, err := sys.Statfs(path); err != nil || st.Size < size*8/10 || st.Size > size {
		r.t.Errorf("the file system has %d bytes of %d, %v", st.Size, size, err)
	}
	r.get(path, canary)
}

// F44: grown while mounted, with the key in the kernel's keyring; killed at each named point, used, and completed by the same command. Then closed.
func TestGuestGrow(t *testing.T) {
	r := newReal(t)
	r.create("db", "size=32M", "alloc=sparse")
	path := r.mount("db", "a")
	r.put(path, canary)
	size := int64(32 << 20)
	step := func() int64 { size += 2 << 20; return size }
	for _, mounted := range []bool{true, false} {
		if !mounted {
			r.unmount("db", "a")
		}
		points := r.points(func(m *volume.Manager) error { _, err := m.Grow(t.Context(), "db", step()); return err })
		if len(points) < 6 {
			t.Errorf("only %v", points)
		}
		for i, point := range points {
			t.Run(fmt.Sprintf("mounted=%t/%s", mounted, point), func(t *testing.T) {
				defer r.in(t)()
				r.kill(point, order{Op: "grow", Name: "db", Size: step()})
				if i%2 == 0 {
					if err := r.manager().Reconcile(t.Context()); err != nil {
						t.Error(err)
					}
				}
				if mounted {
					r.get(path, canary)
				}
				if _, err := r.manager().Grow(t.Context(), "db", size); err != nil {
					t.Fatal(err)
				}
				path = r.mount("db", "a")
				r.grew("db", path, size)
				if !mounted {
					r.unmount("db", "a")
					r.clean()
				}
			})
		}
	}
	r.grew("db", r.mount("db", "a"), size)
	r.unmount("db", "a")
	r.clean()
}

// The other file systems, a logical volume, and a disk that is full.
func TestGuestGrowOthers(t *testing.T) {
	lv := testenv.Disk(t, 1, 512<<20)
	r := newReal(t)
	vg := group(t, lv)
	r.allow(nil, []string{vg})
	for name, options := range map[string][]string{
		"btrfs": {"size=240M", "fs=btrfs", "alloc=sparse"}, "xfs": {"size=300M", "fs=xfs", "alloc=sparse"},
		"lvm": {"size=32M", "backing=lvm", "vg=" + vg}, "thin": {"size=32M", "backing=lvm", "vg=" + vg, "pool=pool"},
	} {
		t.Run(name, func(t *testing.T) {
			defer r.in(t)()
			info := r.create(name, options...)
			path := r.mount(name, "a")
			r.put(path, canary)
			want := info.Size + 32<<20
			if _, err := r.manager().Grow(t.Context(), name, want); err != nil {
				t.Fatal(err)
			}
			r.grew(name, path, want)
			if name == "lvm" {
				if _, err := r.manager().Grow(t.Context(), name, 1<<40); !errors.Is(err, volume.ErrNoSpace) {
					t.Errorf("more than there is: %v", err)
				}
				r.grew(name, path, want)
			}
			r.unmount(name, "a")
			if err := r.manager().Remove(t.Context(), name); err != nil {
				t.Error(err)
			}
			b := volume.NewStorage(volume.StorageOptions{}).Backings.At(volume.Place{Kind: info.Backing, VG: vg, UUID: info.UUID, Dir: filepath.Join(r.paths.RemovedDir(), info.UUID)})
			if err := b.Remove(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	// All of the space is taken before the image gets longer, or none.
	dir := testenv.Ext4Dir(t, 0)
	full, err := sys.Statfs(dir)
	if err != nil {
		t.Fatal(err)
	}
	b := volume.NewStorage(volume.StorageOptions{}).Backings.At(volume.Place{Kind: volume.BackingImage, Dir: dir})
	if err := b.Create(t.Context(), 32<<20, volume.AllocFull); err != nil {
		t.Fatal(err)
	}
	before, _ := sys.Statfs(dir)
	var space *backing.NoSpaceError
	if err := b.Grow(t.Context(), full.Size, volume.AllocFull); !errors.As(err, &space) {
		t.Errorf("a full disk: %v", err)
	}
	if after, err := sys.Statfs(dir); err != nil || after.Avail != before.Avail {
		t.Errorf("%d bytes are free, and were %d, %v", after.Avail, before.Avail, err)
	}
	if size, err := b.Size(t.Context()); err != nil || size != 32<<20 {
		t.Errorf("size %d, %v", size, err)
	}
}
