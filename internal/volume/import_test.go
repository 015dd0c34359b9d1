// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
)

// lost is a volume that has lost its record, or has come from elsewhere.
type lost struct {
	name    string
	options []string
	lose    func(t *testing.T, n *volumetest.Node) (path string)
}

func losses() []lost {
	record := func(t *testing.T, n *volumetest.Node) {
		t.Helper()
		if err := os.Remove(filepath.Join(n.Paths.VolumeDir("db"), "record.json")); err != nil {
			t.Fatal(err)
		}
	}
	whole := func(path string) func(*testing.T, *volumetest.Node) string {
		return func(t *testing.T, n *volumetest.Node) string {
			record(t, n)
			if err := os.Remove(n.Paths.VolumeDir("db")); err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	return []lost{
		{"record", []string{"size=64M", "uid=999", "mount=noatime"}, func(t *testing.T, n *volumetest.Node) string { record(t, n); return image(n, "db") }},
		{"directory", []string{"size=64M", "alloc=sparse", "discard=true"}, func(t *testing.T, n *volumetest.Node) string {
			record(t, n)
			path := filepath.Join(filepath.Dir(n.Paths.State), "found.img")
			if err := errors.Join(os.Rename(image(n, "db"), path), os.Remove(n.Paths.VolumeDir("db"))); err != nil {
				t.Fatal(err)
			}
			return path
		}},
		{"device", onDevice, whole(diskName)},
		{"lvm", onThin, nil},
	}
}

// found makes such a volume with something in it, and loses it.
func (l lost) found(t *testing.T) (n *volumetest.Node, before volume.Info, path string) {
	n = diskNode(t)
	before = create(t, n, "db", l.options...)
	n.Put(mount(t, n, "db", docker("a")), "canary", canary)
	if err := n.Manager().Unmount(t.Context(), "db", "a"); err != nil {
		t.Fatal(err)
	}
	if l.lose != nil {
		return n, before, l.lose(t, n)
	}
	if err := os.RemoveAll(n.Paths.VolumeDir("db")); err != nil {
		t.Fatal(err)
	}
	return n, before, "/dev/mapper/" + groupName + "-voluks--" + strings.ReplaceAll(before.UUID, "-", "--")
}

// same looks whether the volume is what it was.
func (l lost) same(t *testing.T, n *volumetest.Node, before volume.Info) {
	t.Helper()
	now, err := n.Manager().Inspect(t.Context(), "db")
	if err != nil || now.UUID != before.UUID || now.Size != before.Size || now.State != volume.StateReady || len(now.Warnings) > 0 ||
		!reflect.DeepEqual(now.Slots, before.Slots) || !reflect.DeepEqual(now.Options, before.Options) || now.Workqueue != before.Workqueue {
		t.Errorf("got %+v, %v\nwas %+v", now, err, before)
	}
	if _, made, err := n.Manager().Create(t.Context(), spec(t, n, "db", l.options...)); err != nil || made {
		t.Errorf("the Compose file as it is: made %t, %v", made, err)
	}
	path := mount(t, n, "db", docker("b"))
	if got := n.Get(path, "canary"); got != canary {
		t.Errorf("read %q", got)
	}
	if err := n.Manager().Unmount(t.Context(), "db", "b"); err != nil {
		t.Error(err)
	}
	clean(t, n)
}

func TestImport(t *testing.T) {
	for _, l := range losses() {
		t.Run(l.name, func(t *testing.T) {
			n, before, path := l.found(t)
			got, err := n.Manager().Import(t.Context(), path, "")
			if err != nil || !got.Made || got.Volume.UUID != before.UUID || (got.Moved == path) != (l.name == "directory") {
				t.Fatalf("got %+v, %v", got, err)
			}
			l.same(t, n, before)
			if l.name == "directory" {
				return
			}
			if again, err := n.Manager().Import(t.Context(), path, ""); err != nil || again.Made {
				t.Errorf("again: got %+v, %v", again, err)
			}
		})
	}
}

// Killed after each of its writes, alone or with the machine, and repeated; or each write fails, and it is repeated.
func TestImportCutAtEachWrite(t *testing.T) {
	for _, l := range losses() {
		for _, way := range []string{"killed", "killed and rebooted", "failed"} {
			t.Run(l.name+" "+way, func(t *testing.T) {
				for k := 1; ; k++ {
					n, before, path := l.found(t)
					p := n.Process()
					if way == "failed" {
						p.FailAt(k, errors.New("broken"))
					} else {
						p.KillAt(k)
					}
					_, err := n.ManagerOf(p).Import(t.Context(), path, "")
					if !p.Dead() && (err == nil || p.Steps() < k) {
						if err != nil || k < 2 {
							t.Errorf("%d writes, %v", k-1, err)
						}
						return
					}
					if way == "killed and rebooted" {
						n.Reboot()
					}
					if k%2 == 0 {
						n.Manager().Reconcile(t.Context()) // it may find nothing that it can do
					}
					if _, err := os.Lstat(path); err == nil || l.name != "directory" { // else it was moved, which was the last thing
						if _, err := n.Manager().Import(t.Context(), path, ""); err != nil {
							t.Errorf("again: %v", err)
						}
					}
					l.same(t, n, before)
					if t.Failed() {
						t.Fatalf("%s at write %d, %v:\n%s", way, k, err, strings.Join(n.Log(), "\n"))
					}
				}
			})
		}
	}
}

// What voluks could not serve, or has already (F47), is refused, and nothing is written.
func TestImportRefuses(t *testing.T) {
	type change = func(t *testing.T, n *volumetest.Node, path string) (instead string)
	same := func(f func(n *volumetest.Node, path string)) change {
		return func(_ *testing.T, n *volumetest.Node, path string) string { f(n, path); return path }
	}
	// twice is a copy of an image, whose original becomes a volume.
	twice := func(then func(t *testing.T, n *volumetest.Node)) change {
		return func(t *testing.T, n *volumetest.Node, path string) string {
			if err := os.Link(path, path+".copy"); err != nil {
				t.Fatal(err)
			}
			if _, err := n.Manager().Import(t.Context(), path, ""); err != nil {
				t.Fatal(err)
			}
			then(t, n)
			return path + ".copy"
		}
	}
	none := func(*testing.T, *volumetest.Node) {}
	const image, device = 1, 2 // of losses
	for name, c := range map[string]struct {
		of      int
		prepare change
		as      string
		want    error
		says    string
	}{
		"name taken": {image, func(t *testing.T, n *volumetest.Node, path string) string {
			create(t, n, "db", "size=64M")
			return path
		}, "", volume.ErrExists, "choose another name"},
		"a copy":                {image, twice(none), "", volume.ErrExists, "this is a copy of it"},
		"a copy, by other name": {image, twice(none), "other", volume.ErrExists, `UUID of the volume "db"`},
		"a copy of a removed one": {image, twice(func(t *testing.T, n *volumetest.Node) {
			if err := n.Manager().Remove(t.Context(), "db"); err != nil {
				t.Fatal(err)
			}
		}), "", volume.ErrExists, "voluks volume undelete"},
		"nothing": {image, func(_ *testing.T, _ *volumetest.Node, path string) string { return path + "x" }, "", volume.ErrNotFound, ""},
		"a link": {image, func(t *testing.T, _ *volumetest.Node, path string) string {
			if err := os.Symlink(path, path+".link"); err != nil {
				t.Fatal(err)
			}
			return path + ".link"
		}, "", volume.ErrNotFound, ""},
		"bad name":    {image, same(func(*volumetest.Node, string) {}), "../db", volume.ErrInvalid, "volume name"},
		"no key":      {image, same(func(n *volumetest.Node, _ string) { n.Provider.Fail(kek.ErrUnavailable) }), "", volume.ErrLocked, ""},
		"attached":    {image, same(func(n *volumetest.Node, path string) { n.Pin(path) }), "", volume.ErrInUse, "bound to"},
		"damaged":     {image, same(func(n *volumetest.Node, path string) { n.Damage(path) }), "", volume.ErrDamaged, ""},
		"cut":         {image, same(func(n *volumetest.Node, path string) { n.Cut(path) }), "", volume.ErrDamaged, "it was cut"},
		"no LUKS":     {image, same(func(n *volumetest.Node, path string) { n.Junk(path) }), "", volume.ErrInvalid, ""},
		"not allowed": {device, same(func(n *volumetest.Node, _ string) { n.Defaults.Devices = nil }), "", volume.ErrInvalid, "it allows none"},
		"unfinished": {image, func(t *testing.T, n *volumetest.Node, _ string) string {
			p := n.Process()
			n.ManagerOfAt(p, func(point string) {
				if point == "create.formatted" {
					p.Kill()
				}
			}).Create(t.Context(), spec(t, n, "half", "size=64M"))
			path := filepath.Join(n.Paths.VolumeDir("half"), "image")
			if err := os.Remove(filepath.Join(filepath.Dir(path), "record.json")); err != nil {
				t.Fatal(err)
			}
			return path
		}, "", volume.ErrInvalid, "names no volume"},
		"another's name": {0, same(func(*volumetest.Node, string) {}), "other", volume.ErrInvalid, "leave out the other name"},
	} {
		t.Run(name, func(t *testing.T) {
			n, _, path := losses()[c.of].found(t)
			path = c.prepare(t, n, path)
			p := n.Process()
			_, err := n.ManagerOf(p).Import(t.Context(), path, c.as)
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) || p.Steps() != 0 {
				t.Errorf("%d writes, %v\n%s", p.Steps(), err, strings.Join(n.Log(), "\n"))
			}
		})
	}
}

// What belongs to the node is found by the recovery identity too, when the node's key is lost; and an image gets the name that it is given.
func TestImportWithTheIdentity(t *testing.T) {
	l := losses()[1]
	n, before, path := l.found(t)
	n.Provider.Fail(kek.ErrNotFound)
	n.Lent = n.Identity
	got, err := n.Manager().Import(t.Context(), path, "rescued")
	if err != nil || got.Volume.Name != "rescued" || got.Volume.UUID != before.UUID {
		t.Fatalf("got %+v, %v", got, err)
	}
	if got := n.Get(mount(t, n, "rescued", docker("a")), "canary"); got != canary {
		t.Errorf("read %q", got)
	}
}

// Its record was lost while it is used: nothing of what is open changes (F51).
func TestImportWhileMounted(t *testing.T) {
	n := diskNode(t)
	before := create(t, n, "db", "size=64M")
	path := mount(t, n, "db", docker("a"))
	n.Put(path, "canary", canary)
	if err := os.Remove(filepath.Join(n.Paths.VolumeDir("db"), "record.json")); err != nil {
		t.Fatal(err)
	}
	tables := n.Tables()
	for range 2 {
		n.Manager().Reconcile(t.Context()) // it has nothing to go by
		n.Sleep(time.Hour)
	}
	got, err := n.Manager().Import(t.Context(), image(n, "db"), "")
	if err != nil || got.Volume.UUID != before.UUID || got.Volume.State != volume.StateMounted {
		t.Errorf("got %+v, %v", got, err)
	}
	if again := mount(t, n, "db", docker("b")); again != path || n.Get(path, "canary") != canary || !reflect.DeepEqual(n.Tables(), tables) {
		t.Errorf("%s, and was %s; the kernel has %v, and had %v", again, path, n.Tables(), tables)
	}
}

// The same with containers that libcryptsetup and the kernel see.
func TestImportReal(t *testing.T) {
	n := volumetest.NewNode(t)
	dir := t.TempDir()
	paths := config.PathsUnder(filepath.Join(dir, "root"))
	if err := os.MkdirAll(filepath.Dir(paths.State), 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "db.img")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 64<<20+backing.HeaderSize)); err != nil {
		t.Fatal(err)
	}
	const uuid, fs = "7c5b2b0c-6b0e-4f7c-9d37-0d4c4ce2f4a1", "0a2f7d3e-0c2e-4b59-8f3c-3a7b0f6f5f11"
	c := luks.At(path)
	if err := keyslot.Format(t.Context(), c, n.Keyring, luks.FormatParams{UUID: uuid, SectorSize: 4096}); err != nil {
		t.Fatal(err)
	}
	if err := c.SetFlags(luks.Flags{NoReadWorkqueue: true, NoWriteWorkqueue: true}); err != nil {
		t.Fatal(err)
	}
	token := keyslot.VolumeToken{Name: "db", FS: "ext4", FSUUID: fs, Options: map[string]string{"size": "64M", "fs": "ext4", "uid": "999"}}
	if err := keyslot.SetVolume(c, token); err != nil {
		t.Fatal(err)
	}
	m := volume.New(volume.Options{
		Paths: paths, Storage: volume.NewStorage(volume.StorageOptions{}), Keyring: func(context.Context) (*keyslot.Keyring, error) { return n.Keyring, nil },
	})
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.Import(t.Context(), path, "")
	if err != nil || got.Volume.UUID != uuid || got.Volume.Size != 64<<20 || got.Volume.Options["uid"] != "999" || got.Volume.Workqueue != volume.WorkqueueOff || got.Slot != 31 {
		t.Fatalf("got %+v, %v", got, err)
	}
	if after, err := os.ReadFile(filepath.Join(paths.VolumeDir("db"), "image")); err != nil || !bytes.Equal(after, before) {
		t.Errorf("the container was changed, %v", err)
	}
	if _, err := m.Import(t.Context(), filepath.Join(paths.VolumeDir("db"), "image"), ""); err != nil {
		t.Errorf("in its place: %v", err)
	}
	foreign := filepath.Join(dir, "foreign.img")
	if err := errors.Join(os.WriteFile(foreign, nil, 0o600), os.Truncate(foreign, 64<<20)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Import(t.Context(), foreign, ""); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("no LUKS: %v", err)
	}
}
