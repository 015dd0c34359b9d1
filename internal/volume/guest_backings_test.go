// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/luks"
)

// allowed makes a Manager whose node may use these devices and groups, and parses options for it.
func (r *real) allow(devices, groups []string) {
	r.defaults = realDefaults
	r.defaults.Devices, r.defaults.VolumeGroups = devices, groups
}

// group makes a volume group on an extra disk, with a thin pool in it.
func group(t *testing.T, disk string) string {
	t.Helper()
	const name = "voluks-test"
	// LVM keeps notes below /etc, which is the machine's.
	if err := syscall.Mount("tmpfs", "/etc/lvm", "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount("/etc/lvm", 0); err != nil {
			t.Error(err)
		}
	})
	config := "devices { filter = [ \"a|^" + disk + "$|\", \"r|.*|\" ] }\nactivation { udev_sync = 0\n udev_rules = 0 }\n"
	if err := os.WriteFile("/etc/lvm/lvm.conf", []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "vgcreate", "--yes", name, disk)
	t.Cleanup(func() {
		if out, err := exec.Command("vgremove", "--yes", "--force", name).CombinedOutput(); err != nil {
			t.Errorf("vgremove: %v: %s", err, out)
		}
	})
	run(t, "lvcreate", "--yes", "--type", "thin-pool", "--size", "160M", "--name", "pool", name)
	return name
}

// F8, F9: on a logical volume, thick and thin, everything is as on an image; the file system has what was asked for; and a failed creation gives the
// space back.
func TestGuestLVM(t *testing.T) {
	disk := testenv.Disk(t, 1, 512<<20)
	r := newReal(t)
	vg := group(t, disk)
	r.allow(nil, []string{vg})
	before := run(t, "lvs", "--noheadings", "--options", "lv_name", vg)
	for _, options := range [][]string{{"size=33M"}, {"size=65M", "pool=pool", "discard=true"}} {
		options = append(options, "backing=lvm", "vg="+vg)
		info := r.create("db", options...)
		path := r.mount("db", "a")
		r.put(path, canary)
		size, err := sys.BlockDeviceSize("/dev/mapper/" + luks.MappingName(info.UUID))
		if err != nil || size < info.Size || size >= info.Size+4<<20 { // rounded up to an extent
			t.Errorf("the file system has a device of %d bytes, and %d were asked for: %v", size, info.Size, err)
		}
		if _, err := r.manager().Rotate(t.Context(), "db", "agent", "recovery"); err != nil {
			t.Error(err)
		}
		r.unmount("db", "a")
		// As after a boot at which LVM was late.
		run(t, "lvchange", "--activate", "n", vg+"/voluks-"+info.UUID)
		r.get(r.mount("db", "b"), canary)
		if err := r.manager().Remove(t.Context(), "db"); !errors.Is(err, volume.ErrInUse) {
			t.Errorf("removed while mounted: %v", err)
		}
		r.unmount("db", "b")
		if err := r.manager().Remove(t.Context(), "db"); err != nil {
			t.Error(err)
		}
		b := volume.NewStorage(volume.StorageOptions{}).Backings.At(volume.Place{Kind: volume.BackingLVM, VG: vg, UUID: info.UUID})
		if _, err := b.Size(t.Context()); err != nil {
			t.Errorf("it went with its tombstone: %v", err)
		}
		for range 2 {
			if err := b.Remove(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
	_, _, err := r.manager().Create(t.Context(), r.spec("big", "size=10G", "backing=lvm", "vg="+vg))
	var space *backing.NoSpaceError
	if !errors.As(err, &space) || !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("more than there is: %v", err)
	}
	if after := run(t, "lvs", "--noheadings", "--options", "lv_name", vg); after != before {
		t.Errorf("left: %s, before: %s", after, before)
	}
}

// F3, F6, F11, F12: a device that holds something is refused; one that was named is wiped, of both headers of LUKS and both partition tables; behind its name
// another disk, nothing, or a broken one opens nothing and is not formatted.
func TestGuestDevice(t *testing.T) {
	disk := testenv.Disk(t, 0, 100<<20)
	r := newReal(t)
	size, err := sys.BlockDeviceSize(disk)
	if err != nil {
		t.Fatal(err)
	}
	const sectors = 49 << 11 // of each half
	table := func(at int64) string { return fmt.Sprintf("0 %d linear %s %d", sectors, disk, at) }
	if size < 2*sectors*512 {
		t.Fatal(size)
	}
	one := testenv.DM(t, "voluks-test-one", table(0))
	other := testenv.DM(t, "voluks-test-other", table(sectors))
	name := filepath.Join(t.TempDir(), "by-id-disk")
	lead := func(to string) {
		t.Helper()
		if err := errors.Join(os.Remove(name), os.Symlink(to, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(one, name); err != nil {
		t.Fatal(err)
	}
	r.allow([]string{name}, nil)
	options := []string{"backing=device", "device=" + name}

	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("not so secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "cryptsetup", "-q", "luksFormat", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", key, one)
	_, _, err = r.manager().Create(t.Context(), r.spec("db", options...))
	var occupied *volume.OccupiedError
	if !errors.As(err, &occupied) || !errors.Is(err, volume.ErrInUse) {
		t.Fatalf("on somebody's container: %v", err)
	}
	run(t, "cryptsetup", "open", "--test-passphrase", "--key-file", key, one) // as it was

	// It has no serial number here, so nobody can name it: the owner clears it.
	if _, _, err := r.manager().CreateOver(t.Context(), r.spec("db", options...), "S1"); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("wiped by another name: %v", err)
	}
	if err := backing.Wipe(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if err := backing.ProbeBlank(t.Context(), one); err != nil {
		t.Errorf("a wiped container: %v", err)
	}
	info := r.create("db", options...)
	if info.Size != sectors*512-backing.HeaderSize { // F8
		t.Errorf("the file system has %d bytes", info.Size)
	}
	// The mapping of another container of voluks has no more right to the device than anybody's.
	foreign := "voluks-00000000-0000-4000-8000-000000000000"
	run(t, "dmsetup", "create", foreign, "--uuid", "CRYPT-LUKS2-00000000000040008000000000000000-"+foreign, "--table", fmt.Sprintf("0 %d linear %s 0", sectors, one))
	if _, err := r.manager().Mount(t.Context(), "db", docker("a")); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), foreign) {
		t.Errorf("mounted beside %s: %v", foreign, err)
	}
	run(t, "dmsetup", "remove", foreign)
	r.put(r.mount("db", "a"), canary)
	if err := r.manager().Remove(t.Context(), "db"); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("removed while mounted: %v", err)
	}
	r.unmount("db", "a")

	closed := func(what string) {
		t.Helper()
		_, err := r.manager().Mount(t.Context(), "db", docker("b"))
		if !errors.Is(err, volume.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
		t.Logf("%s: %v", what, err)
		if _, made, err := r.manager().Create(t.Context(), r.spec("db", options...)); made || err != nil {
			t.Errorf("%s: made %t, %v", what, made, err)
		}
		r.clean()
	}
	lead(other) // of the same size
	closed("another disk")
	lead("/dev/mapper/none")
	closed("nothing")
	lead(one)
	for _, target := range []string{"error", "zero"} {
		testenv.DMReload(t, "voluks-test-one", fmt.Sprintf("0 %d %s", sectors, target))
		closed(target)
	}
	testenv.DMReload(t, "voluks-test-one", table(sectors))
	closed("another disk below the same name")
	testenv.DMReload(t, "voluks-test-one", table(0))
	path := r.mount("db", "b")
	r.get(path, canary)

	// The name leads elsewhere while it is mounted: without a serial number nobody can tell the two apart, so the path is not given out.
	lead(other)
	if _, err := r.manager().Path(t.Context(), "db"); !errors.Is(err, volume.ErrPlaintext) || !strings.Contains(err.Error(), "leads to") {
		t.Errorf("got %v", err)
	}
	lead(one)
	// The disk fails under the mount; the status needs no answer from it, and it can be closed.
	testenv.DMReload(t, "voluks-test-one", fmt.Sprintf("0 %d error", sectors))
	if info := r.inspect("db"); info.State != volume.StateMounted {
		t.Errorf("got %+v", info)
	}
	if err := r.manager().Unmount(t.Context(), "db", "b"); err != nil {
		t.Logf("unmount: %v", err)
	}
	testenv.DMReload(t, "voluks-test-one", table(0))
	r.get(r.mount("db", "c"), canary)
	r.unmount("db", "c")
	r.clean()
}

// F45: an ephemeral volume on a sparse image that takes discards: the table has what was chosen, unused space goes back to the disk, no key of the node is
// needed, nothing on the disk opens it while it is used, and afterwards nothing is there.
func TestGuestEphemeralAndTrim(t *testing.T) {
	r := newReal(t)
	for _, name := range []string{"tmp", "db"} {
		r.create(name, "size=64M", "alloc=sparse", "discard=true", fmt.Sprintf("ephemeral=%t", name == "tmp"))
	}
	for range 2 {
		path := r.mount("tmp", "a")
		if entries, err := os.ReadDir(path); err != nil || len(entries) > 0 {
			t.Errorf("it is not empty: %v, %v", entries, err)
		}
		r.put(path, canary)
		door, err := volume.NewStorage(volume.StorageOptions{}).Backings.At(volume.Place{Kind: volume.BackingImage, Dir: r.paths.VolumeDir("tmp")}).Door(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if h, err := luks.At(door).Header(); err != nil || len(h.Keyslots) != 0 {
			t.Errorf("its header has %d slots, %v", len(h.Keyslots), err)
		}
		if table := run(t, "dmsetup", "table", luks.MappingName(r.inspect("tmp").UUID)); !strings.Contains(table, "allow_discards") {
			t.Errorf("table %s", table)
		}
		r.unmount("tmp", "a")
		r.clean()
		if left, err := os.ReadDir(r.paths.VolumeDir("tmp")); err != nil || len(left) != 1 {
			t.Errorf("left %v, %v", left, err)
		}
	}

	path := r.mount("db", "a")
	blocks := func() int64 {
		var st syscall.Stat_t
		if err := syscall.Stat(r.image("db"), &st); err != nil {
			t.Fatal(err)
		}
		return st.Blocks * 512
	}
	file := filepath.Join(path, "large")
	if err := os.WriteFile(file, make([]byte, 32<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	syscall.Sync()
	full := blocks()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	syscall.Sync()
	if bytes, err := r.manager().Trim(t.Context(), "db"); err != nil || bytes <= 0 {
		t.Errorf("trimmed %d bytes, %v", bytes, err)
	}
	if after := blocks(); after > full-24<<20 {
		t.Errorf("the image takes %d bytes, and took %d", after, full)
	}
	r.unmount("db", "a")
}
