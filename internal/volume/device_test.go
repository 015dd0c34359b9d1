// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
)

const (
	diskName  = "/dev/disk/by-id/ata-one"
	otherName = "/dev/disk/by-id/wwn-one"
	groupName = "fast"
)

var disk = sys.BlockID{Serial: "S1", WWN: "naa.1", Size: 128 << 20, Block: 512}

// diskNode is a node with a disk and a volume group that may be used.
func diskNode(t testing.TB) *volumetest.Node {
	n := volumetest.NewNode(t)
	n.Plug(diskName, disk, nil)
	n.Group(groupName)
	n.Defaults.Devices, n.Defaults.VolumeGroups = []string{diskName, otherName, "/dev/disk/by-id/none"}, []string{groupName}
	return n
}

var (
	onDevice = []string{"backing=device", "device=" + diskName}
	onLVM    = []string{"backing=lvm", "vg=" + groupName, "size=64M"}
	onThin   = []string{"backing=lvm", "vg=" + groupName, "pool=p", "size=64M"}
)

// A volume is the same on whatever it lies.
func TestLifeOnEachBacking(t *testing.T) {
	for name, options := range map[string][]string{"image": {"size=64M"}, "device": onDevice, "lvm": onLVM, "thin": onThin} {
		t.Run(name, func(t *testing.T) {
			n := diskNode(t)
			info := create(t, n, "db", options...)
			size := int64(64 << 20)
			if name == "device" {
				size = disk.Size - backing.HeaderSize // F8: all but the header
			}
			if info.State != volume.StateReady || info.Size != size {
				t.Errorf("got %+v", info)
			}
			path := mount(t, n, "db", docker("a"))
			n.Put(path, "canary", canary)
			if info, err := n.Manager().Inspect(t.Context(), "db"); err != nil || info.Mountpoint != path || len(info.Warnings) > 0 {
				t.Errorf("got %+v, %v", info, err)
			}
			if _, err := n.Manager().Rotate(t.Context(), "db", "agent"); err != nil && !strings.Contains(err.Error(), "no such device or address") {
				t.Error(err)
			}
			n.Reboot()
			if got := n.Get(mount(t, n, "db", docker("b")), "canary"); got != canary {
				t.Errorf("read %q", got)
			}
			if err := n.Manager().Remove(t.Context(), "db"); !errors.Is(err, volume.ErrInUse) {
				t.Errorf("removed while held: %v", err)
			}
			if err := n.Manager().Unmount(t.Context(), "db", "b"); err != nil {
				t.Error(err)
			}
			if err := n.Manager().Remove(t.Context(), "db"); err != nil {
				t.Error(err)
			}
			clean(t, n)
			uses, err := n.Manager().KeyUses(t.Context())
			if err != nil || len(uses) != 1 || !uses[0].Removed || uses[0].Err != nil || len(uses[0].Keys) == 0 {
				t.Errorf("the tombstone's header: %+v, %v", uses, err)
			}
			if name == "device" {
				_, _, err := n.Manager().Create(t.Context(), spec(t, n, "new", options...))
				if !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "removed volume") {
					t.Errorf("the device of a tombstone: %v", err)
				}
			}
		})
	}
}

// Safety rule 6: only where the configuration allows it.
func TestBackingOptions(t *testing.T) {
	n := diskNode(t)
	for text, options := range map[string][]string{
		`must be image, device or lvm`:               {"backing=nfs"},
		`is not among the devices`:                   {"backing=device", "device=/dev/sda"},
		`leave the size out`:                         append([]string{"size=64M"}, onDevice...),
		`is not among the volume groups`:             {"backing=lvm", "vg=root"},
		`goes with backing=device`:                   {"device=" + diskName},
		`goes with backing=lvm`:                      append([]string{"pool=p"}, onDevice...),
		`has all of its space`:                       append([]string{"alloc=sparse"}, onLVM...),
		`takes its space as it fills`:                append([]string{"alloc=full"}, onThin...),
		`is no name of LVM`:                          {"backing=lvm", "vg=" + groupName, "pool=--help"},
		`would give the space away that alloc=full`:  {"discard=true"},
		`it allows none: list them as volume_groups`: {"backing=lvm", "vg=x", "uid=7"},
	} {
		o := map[string]string{}
		for _, s := range options {
			k, v, _ := strings.Cut(s, "=")
			o[k] = v
		}
		d := n.Defaults
		if o["uid"] == "7" {
			d.VolumeGroups = nil
		}
		if _, err := volume.ParseOptions("db", o, d); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: %v", options, err)
		}
	}
	d := n.Defaults
	d.Overcommit = false
	if _, err := volume.ParseOptions("db", map[string]string{"backing": "lvm", "vg": groupName, "pool": "p"}, d); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("a thin volume is overcommitted: %v", err)
	}
	if _, err := volume.ParseOptions("db", map[string]string{"backing": "device", "device": diskName, "discard": "true"}, n.Defaults); err != nil {
		t.Errorf("discards to a device: %v", err)
	}
}

// F3: a device that holds anything is refused, by name, and stays as it is; named by its serial number it is wiped and used.
func TestOccupiedDevice(t *testing.T) {
	n := diskNode(t)
	content := volumetest.Junk()
	n.Plug(diskName, disk, content)
	s := spec(t, n, "db", onDevice...)
	refused := func(err error, text string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v", err)
		}
		if !content.IsJunk() {
			t.Fatal("it was touched")
		}
		if _, err := n.Manager().Inspect(t.Context(), "db"); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("something of it is left: %v", err)
		}
	}
	_, _, err := n.Manager().Create(t.Context(), s)
	refused(err, "--wipe-serial S1")
	var occupied *volume.OccupiedError
	if !errors.As(err, &occupied) || !errors.Is(err, volume.ErrInUse) || occupied.Serial != "S1" {
		t.Errorf("got %+v", occupied)
	}
	_, _, err = n.Manager().CreateOver(t.Context(), s, "S2")
	refused(err, "not \"S2\"")
	_, _, err = n.Manager().CreateOver(t.Context(), spec(t, n, "db"), "S1")
	refused(err, "only a device can be wiped")

	if _, made, err := n.Manager().CreateOver(t.Context(), s, "naa.1"); err != nil || !made {
		t.Fatalf("made %t, %v", made, err)
	}
	n.Put(mount(t, n, "db", docker("a")), "canary", canary)
	n.Reboot()
	// F10: what is a volume already is not wiped by the same words, by another name neither.
	if _, made, err := n.Manager().CreateOver(t.Context(), s, "S1"); err != nil || made {
		t.Errorf("made %t, %v", made, err)
	}
	n.Plug(otherName, disk, n.Unplug(diskName))
	_, _, err = n.Manager().CreateOver(t.Context(), spec(t, n, "new", "backing=device", "device="+otherName), "S1")
	if !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), `is the volume "db"`) {
		t.Errorf("under another name: %v", err)
	}
	n.Plug(diskName, disk, n.Unplug(otherName))
	if got := n.Get(mount(t, n, "db", docker("a")), "canary"); got != canary {
		t.Errorf("read %q", got)
	}
}

// A record that cannot be read keeps nobody from making a volume on a blank device, and everybody from wiping one: it may be of a volume there.
func TestDeviceBesideADamagedRecord(t *testing.T) {
	n := diskNode(t)
	create(t, n, "bad")
	if err := os.WriteFile(filepath.Join(n.Paths.VolumeDir("bad"), "record.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	content := volumetest.Junk()
	n.Plug(otherName, sys.BlockID{Serial: "S9", Size: disk.Size, Block: 512}, content)
	_, _, err := n.Manager().CreateOver(t.Context(), spec(t, n, "new", "backing=device", "device="+otherName), "S9")
	if !errors.Is(err, volume.ErrDamaged) || !content.IsJunk() {
		t.Errorf("wiped %t, %v", !content.IsJunk(), err)
	}
	create(t, n, "db", onDevice...)
}

// A device without any name cannot be named, and so is not wiped.
func TestOccupiedDeviceWithoutName(t *testing.T) {
	n := diskNode(t)
	content := volumetest.Junk()
	n.Plug(diskName, sys.BlockID{Size: 128 << 20, Block: 512}, content)
	for _, serial := range []string{"", "S1"} {
		if _, _, err := n.Manager().CreateOver(t.Context(), spec(t, n, "db", onDevice...), serial); err == nil || !strings.Contains(err.Error(), "no serial number") {
			t.Errorf("got %v", err)
		}
	}
	if !content.IsJunk() {
		t.Error("it was touched")
	}
}

// F11: the name leads to another disk, to none, to a copy of ours on another disk, or to ours after it was enlarged or cut.
func TestDeviceBehindItsName(t *testing.T) {
	grown, cut, copied, weak := disk, disk, disk, disk
	grown.Size *= 2
	cut.Size /= 2
	copied.Serial, copied.WWN = "S2", "naa.2"
	weak.Serial, weak.WWN = "", ""
	for name, c := range map[string]struct {
		id    sys.BlockID
		ours  bool // what is on it
		opens bool
		says  string
	}{
		"nothing":        {says: "is gone"},
		"another disk":   {id: copied, says: "leads to another device"},
		"a copy of ours": {id: copied, ours: true, says: "leads to another device"},
		"without a name": {id: weak, ours: true, says: "leads to another device"},
		"blank":          {id: disk, says: "header"},
		"cut":            {id: cut, ours: true, says: "was cut"},
		"enlarged":       {id: grown, ours: true, opens: true},
	} {
		t.Run(name, func(t *testing.T) {
			n := diskNode(t)
			create(t, n, "db", onDevice...)
			n.Put(mount(t, n, "db", docker("a")), "canary", canary)
			n.Reboot()
			content := n.Unplug(diskName)
			if c.id.Size > 0 {
				if !c.ours {
					content = nil
				}
				n.Plug(diskName, c.id, content)
			}
			_, err := n.Manager().Mount(t.Context(), "db", docker("b"))
			if c.opens {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !errors.Is(err, volume.ErrDamaged) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
			if _, made, err := n.Manager().Create(t.Context(), spec(t, n, "db", onDevice...)); err != nil || made { // F1
				t.Errorf("made %t, %v", made, err)
			}
			clean(t, n)
		})
	}
}

// A disk that is swapped while the volume is open: what is mounted is not called ours any more than the disk below it is.
func TestDeviceReplacedUnderAMount(t *testing.T) {
	n := diskNode(t)
	create(t, n, "db", onDevice...)
	path := mount(t, n, "db", docker("a"))
	n.Plug(diskName, sys.BlockID{Serial: "S2", Size: disk.Size, Block: 512}, nil)
	if got, err := n.Manager().Path(t.Context(), "db"); err != nil || got != path {
		t.Errorf("the disk below is still ours, whatever the name leads to: %q, %v", got, err)
	}
}

// A creation on a device that fails amid stays unfinished, and is finished by the next; one that fails before it writes leaves nothing (F9). Half a
// header is nobody's that could be told, so it is left until the device is named.
func TestCreateOnDeviceFailsAtEachWrite(t *testing.T) {
	broken := errors.New("broken")
	var half []int
	for k := 1; ; k++ {
		n := diskNode(t)
		p := n.Process()
		p.FailAt(k, broken)
		_, _, err := n.ManagerOf(p).Create(t.Context(), spec(t, n, "db", onDevice...))
		if p.Steps() < k {
			if k < 15 || err != nil || len(half) != 1 {
				t.Errorf("%d writes, occupied after %v, %v", k, half, err)
			}
			return
		}
		_, _, again := n.Manager().Create(t.Context(), spec(t, n, "db", onDevice...))
		var occupied *volume.OccupiedError
		if errors.As(again, &occupied) {
			half = append(half, k)
			_, _, again = n.Manager().CreateOver(t.Context(), spec(t, n, "db", onDevice...), occupied.Serial)
		}
		if again != nil {
			t.Errorf("write %d: create again: %v", k, again)
		}
		mount(t, n, "db", docker("a"))
		if t.Failed() {
			t.Fatalf("write %d: %v\n%s", k, err, strings.Join(n.Log(), "\n"))
		}
	}
}
