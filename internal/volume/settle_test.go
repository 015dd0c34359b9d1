// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
)

func names(infos []volume.Info) string {
	var s []string
	for _, i := range infos {
		s = append(s, i.Name+"="+string(i.State))
	}
	return strings.Join(s, " ")
}

// A corrupted record hides no other volume, is listed as damaged, and nothing is done to what it belongs to.
func TestDamagedRecord(t *testing.T) {
	n := volumetest.NewNode(t)
	for _, name := range []string{"a", "b", "c"} {
		create(t, n, name)
	}
	path := filepath.Join(n.Paths.VolumeDir("b"), "record.json")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string]string{
		"empty":           "",
		"no JSON":         "{",
		"later version":   strings.Replace(string(good), `"v": 1`, `"v": 2`, 1),
		"unknown member":  strings.Replace(string(good), `"v": 1`, `"v": 1, "shiny": true`, 1),
		"another name":    strings.ReplaceAll(string(good), `"b"`, `"a"`),
		"two names":       strings.Replace(string(good), `"b"`, `"a"`, 1),
		"unknown state":   strings.Replace(string(good), `"ready"`, `"molten"`, 1),
		"no UUID":         strings.Replace(string(good), `"uuid": "`, `"uuid": "x`, 1),
		"something more":  string(good) + "{}",
		"sector size 0":   strings.Replace(string(good), `4096`, `0`, 1),
		"negative size":   strings.Replace(string(good), `67108864`, `-1`, 1),
		"too large":       string(good) + strings.Repeat(" ", 1<<20),
		"a name to avoid": strings.ReplaceAll(string(good), `"b"`, `"../b"`),
	} {
		t.Run(what, func(t *testing.T) {
			if bad == string(good) {
				t.Fatal("nothing was spoilt")
			}
			if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
				t.Fatal(err)
			}
			infos, err := n.Manager().List(t.Context())
			if err != nil || names(infos) != "a=ready b=damaged c=ready" {
				t.Errorf("got %s, %v", names(infos), err)
			}
			if len(infos) == 3 && !strings.Contains(infos[1].Reason, "record.json") {
				t.Errorf("reason %q", infos[1].Reason)
			}
			if _, err := n.Manager().Mount(t.Context(), "b", docker("x")); !errors.Is(err, volume.ErrDamaged) {
				t.Errorf("mount: %v", err)
			}
			if _, _, err := n.Manager().Create(t.Context(), spec(t, n, "b")); !errors.Is(err, volume.ErrDamaged) {
				t.Errorf("create: %v", err)
			}
			if err := n.Manager().Remove(t.Context(), "b"); !errors.Is(err, volume.ErrDamaged) {
				t.Errorf("remove: %v", err)
			}
			if err := n.Manager().Reconcile(t.Context()); err != nil {
				t.Errorf("reconcile: %v", err)
			}
			mount(t, n, "a", docker("x"))
			if err := n.Manager().Unmount(t.Context(), "a", "x"); err != nil {
				t.Error(err)
			}
			if now, _ := os.ReadFile(path); string(now) != bad {
				t.Error("the record was written")
			}
		})
	}
	os.WriteFile(path, good, 0o600)
	mount(t, n, "b", docker("x"))
}

// What is not voluks's own is left alone.
func TestReconcileLeavesOthers(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	others := []string{n.Paths.Mount("strange"), n.Paths.Mount("odd"), filepath.Join(n.Paths.VolumesDir(), "lost+found"), n.Paths.VolumeDir("half")}
	for _, dir := range others {
		if err := os.MkdirAll(filepath.Join(dir, "inner"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	n.MountOther(n.Paths.Mount("strange"), "/", "ext4", "/dev/sdb1", 8, 17)
	before := n.Tables()
	err := n.Manager().Reconcile(t.Context())
	if err == nil || !strings.Contains(err.Error(), "half") || !strings.Contains(err.Error(), "odd") || strings.Contains(err.Error(), "strange") {
		t.Errorf("got %v", err)
	}
	if after := n.Tables(); strings.Join(before, "\n") != strings.Join(after, "\n") {
		t.Errorf("before %v, after %v", before, after)
	}
	for _, dir := range others {
		if _, err := os.Stat(filepath.Join(dir, "inner")); err != nil {
			t.Error(err)
		}
	}
	if infos, err := n.Manager().List(t.Context()); err != nil || names(infos) != "db=ready half=damaged" {
		t.Errorf("got %s, %v", names(infos), err)
	}
}

// What is mounted and held stays mounted and held through any number of restarts of the program.
func TestReconcileAdopts(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	path := mount(t, n, "db", docker("a"))
	writes := len(n.Log())
	for range 3 {
		if err := n.Manager().Reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := n.Log()[writes:]; len(got) > 0 {
		t.Errorf("it did %v", got)
	}
	if info := inspect(t, n, "db"); info.Mountpoint != path {
		t.Errorf("got %+v", info)
	}
}

// A mount that was lost while a holder is recorded comes back with the next Mount; nobody closes the holder's volume in between.
func TestMountLost(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	n.Put(mount(t, n, "db", docker("a")), "canary", canary)
	n.UnmountAll()
	if err := n.Manager().Reconcile(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := n.Manager().Path(t.Context(), "db"); !errors.Is(err, volume.ErrNotMounted) {
		t.Errorf("got %v", err)
	}
	if path := mount(t, n, "db", docker("a")); n.Get(path, "canary") != canary {
		t.Error("the data is gone")
	}
}

func TestNames(t *testing.T) {
	n := volumetest.NewNode(t)
	for _, name := range []string{"", "..", "a/b", strings.Repeat("x", 256)} {
		m := n.Manager()
		errs := map[string]error{"unmount": m.Unmount(t.Context(), name, "a"), "remove": m.Remove(t.Context(), name), "settle": m.Settle(t.Context(), name)}
		_, errs["mount"] = m.Mount(t.Context(), name, docker("a"))
		_, errs["inspect"] = m.Inspect(t.Context(), name)
		_, errs["path"] = m.Path(t.Context(), name)
		_, _, errs["create"] = m.Create(t.Context(), volume.Spec{Name: name, Size: 1 << 30, FS: "ext4", Backing: "image", Alloc: "full"})
		for op, err := range errs {
			if !errors.Is(err, volume.ErrInvalid) {
				t.Errorf("%s of %q: %v", op, name, err)
			}
		}
	}
	for _, op := range []func() error{
		func() error { _, err := n.Manager().Mount(t.Context(), "no", docker("a")); return err },
		func() error { return n.Manager().Unmount(t.Context(), "no", "a") },
		func() error { return n.Manager().Remove(t.Context(), "no") },
		func() error { _, err := n.Manager().Inspect(t.Context(), "no"); return err },
		func() error { _, err := n.Manager().Path(t.Context(), "no"); return err },
	} {
		if err := op(); !errors.Is(err, volume.ErrNotFound) || volume.CodeOf(err) != volume.CodeNotFound {
			t.Errorf("got %v", err)
		}
	}
	if infos, err := n.Manager().List(t.Context()); err != nil || infos == nil || len(infos) != 0 {
		t.Errorf("got %v, %v", infos, err)
	}
}

// A volume that has lost its record is damaged, and never taken for a free name: its image is untouched by everything.
func TestRecordLost(t *testing.T) {
	n := volumetest.NewNode(t)
	info := create(t, n, "db")
	path := filepath.Join(n.Paths.VolumeDir("db"), "record.json")
	record, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	_, epoch, _, _ := n.Container(image(n, "db"))
	if _, _, err := n.Manager().Create(t.Context(), spec(t, n, "db")); !errors.Is(err, volume.ErrDamaged) {
		t.Errorf("create: %v", err)
	}
	if _, err := n.Manager().Mount(t.Context(), "db", docker("a")); !errors.Is(err, volume.ErrDamaged) {
		t.Errorf("mount: %v", err)
	}
	if err := n.Manager().Remove(t.Context(), "db"); !errors.Is(err, volume.ErrDamaged) {
		t.Errorf("remove: %v", err)
	}
	if err := n.Manager().Settle(t.Context(), "db"); !errors.Is(err, volume.ErrDamaged) {
		t.Errorf("settle: %v", err)
	}
	if infos, err := n.Manager().List(t.Context()); err != nil || names(infos) != "db=damaged" || !strings.Contains(infos[0].Reason, "record.json") {
		t.Errorf("list: %+v, %v", infos, err)
	}
	if uuid, now, complete, ok := n.Container(image(n, "db")); !ok || !complete || uuid != info.UUID || now != epoch {
		t.Error("the image was touched")
	}
	if err := os.WriteFile(path, record, 0o600); err != nil {
		t.Fatal(err)
	}
	mount(t, n, "db", docker("a"))
}

// What a crash left of the first write of a record is no volume.
func TestHalfRecord(t *testing.T) {
	n := volumetest.NewNode(t)
	if err := os.MkdirAll(n.Paths.VolumeDir("db"), 0o700); err != nil {
		t.Fatal(err)
	}
	temp := filepath.Join(n.Paths.VolumeDir("db"), ".record.json123456")
	if err := os.WriteFile(temp, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if infos, err := n.Manager().List(t.Context()); err != nil || len(infos) != 0 {
		t.Errorf("list: %v, %v", infos, err)
	}
	if _, err := os.Stat(temp); err != nil {
		t.Errorf("looking has changed something: %v", err)
	}
	if err := n.Manager().Reconcile(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(n.Paths.VolumeDir("db")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("directory: %v", err)
	}
	create(t, n, "db")
}

// A volume that was taken away by hand leaves holders; they are not those of the next volume of that name.
func TestHoldersOfAVolumeThatIsGone(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	mount(t, n, "db", docker("a"))
	n.Machine.Reboot()
	n.UnmountAll()
	if err := os.RemoveAll(n.Paths.VolumeDir("db")); err != nil {
		t.Fatal(err)
	}
	if err := n.Manager().Reconcile(t.Context()); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(n.Paths.HoldersDir()); len(entries) > 0 {
		t.Errorf("left %v", entries)
	}
}
