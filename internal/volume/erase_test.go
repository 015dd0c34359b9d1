// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
)

// removed makes a volume with content and removes it.
func removed(t *testing.T, n *volumetest.Node, name string, opts ...string) (id string) {
	t.Helper()
	info := create(t, n, name, opts...)
	n.Put(mount(t, n, name, docker("first")), "canary", canary+" in "+info.UUID)
	if err := n.Manager().Unmount(t.Context(), name, "first"); err != nil {
		t.Fatal(err)
	}
	if err := n.Manager().Remove(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	return info.UUID
}

// back checks that a volume is there with its content, and closes it again.
func back(t *testing.T, n *volumetest.Node, name, id string) {
	t.Helper()
	path := mount(t, n, name, docker("check"))
	if got := n.Get(path, "canary"); got != canary+" in "+id {
		t.Errorf("content %q of %s", got, id)
	}
	if err := n.Manager().Unmount(t.Context(), name, "check"); err != nil {
		t.Error(err)
	}
}

// F27: what was removed by a slip comes back, under its name and with its data, and the name is not taken from another volume for that.
func TestUndelete(t *testing.T) {
	n := volumetest.NewNode(t)
	first := removed(t, n, "db")
	n.Sleep(time.Hour)
	second := removed(t, n, "db")
	if _, err := n.Manager().FindRemoved(t.Context(), "db"); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), first) || !strings.Contains(err.Error(), second) {
		t.Errorf("a name that two removed volumes had: %v", err)
	}
	all, err := n.Manager().RemovedVolumes(t.Context())
	if err != nil || len(all) != 2 || all[0].UUID != second || all[0].Name != "db" {
		t.Fatalf("%+v, %v", all, err)
	}
	for _, ref := range []string{first, all[1].Ref(), "db@" + all[1].Removed.UTC().Format("2006-01-02T15:04")} {
		if got, err := n.Manager().FindRemoved(t.Context(), ref); err != nil || got.UUID != first {
			t.Errorf("%s: %+v, %v", ref, got, err)
		}
	}
	if _, err := n.Manager().FindRemoved(t.Context(), "web"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("a name that none had: %v", err)
	}
	if name, err := n.Manager().Undelete(t.Context(), first); err != nil || name != "db" {
		t.Fatalf("%s, %v", name, err)
	}
	if _, err := n.Manager().Undelete(t.Context(), second); !errors.Is(err, volume.ErrExists) {
		t.Errorf("the name is taken: %v", err)
	}
	if _, err := n.Manager().Undelete(t.Context(), first); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("a second time: %v", err)
	}
	back(t, n, "db", first)
	if err := n.Manager().Remove(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Manager().Undelete(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	back(t, n, "db", second)
	clean(t, n)
}

// A removal from a full disk does not know its time: its day in the sun begins when it is first looked at, and it is never erased for not knowing.
func TestExpired(t *testing.T) {
	n := volumetest.NewNode(t)
	id := removed(t, n, "db")
	expired := func() []volume.Removed {
		t.Helper()
		ids, err := n.Manager().Expired(t.Context(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return ids
	}
	record := filepath.Join(n.Paths.RemovedDir(), id, "record.json")
	b, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(string(b)) {
		if !strings.Contains(line, `"removed"`) {
			kept = append(kept, line)
		}
	}
	text := strings.Replace(strings.Join(kept, ""), ",\n}", "\n}", 1)
	if err := os.WriteFile(record, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := expired(); len(got) > 0 {
		t.Errorf("without a time: %v", got)
	}
	n.Sleep(59 * time.Minute)
	if got := expired(); len(got) > 0 {
		t.Errorf("too early: %v", got)
	}
	n.Sleep(time.Minute)
	if got := expired(); len(got) != 1 || got[0].UUID != id {
		t.Errorf("after its time: %v", got)
	}
	if err := os.WriteFile(record, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := expired(); len(got) > 0 {
		t.Errorf("with a record that says nothing: %v", got)
	}
}

func TestErase(t *testing.T) {
	for _, kind := range [][]string{nil, onLVM} {
		t.Run(strings.Join(append(kind, "-"), " "), func(t *testing.T) {
			n := volumetest.NewNode(t)
			n.Group(groupName)
			n.Defaults.VolumeGroups = []string{groupName}
			id := removed(t, n, "db", kind...)
			r, err := n.Manager().Erase(t.Context(), seen(t, n.Manager(), id))
			if err != nil || r.Volume != "db" || r.UUID != id || r.Header.How != volume.OverwrittenInPlace || len(r.Incomplete) > 0 {
				t.Errorf("%+v, %v", r, err)
			}
			vanished(t, n, id)
			if _, err := n.Manager().Erase(t.Context(), seen(t, n.Manager(), id)); !errors.Is(err, volume.ErrNotFound) {
				t.Errorf("a second time: %v", err)
			}
			if len(n.Logical(groupName)) > 0 {
				t.Errorf("left: %v", n.Logical(groupName))
			}
		})
	}
}

// erased tells whether nothing of a removed volume is left.
func erased(n *volumetest.Node) bool {
	entries, err := os.ReadDir(n.Paths.RemovedDir())
	return err == nil && len(entries) == 0
}

// seen is what a list says of a removed volume; of one that is not there its UUID alone.
func seen(t *testing.T, m *volume.Manager, id string) volume.Removed {
	t.Helper()
	all, err := m.RemovedVolumes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		if r.UUID == id {
			return r
		}
	}
	return volume.Removed{UUID: id}
}

func vanished(t *testing.T, n *volumetest.Node, id string) {
	t.Helper()
	if all, err := n.Manager().RemovedVolumes(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("still there: %+v, %v", all, err)
	}
	if !erased(n) {
		t.Error("something is left of it")
	}
	if receipts, _ := filepath.Glob(filepath.Join(n.Paths.State, "receipts", id, "*-erase.json")); len(receipts) == 0 {
		t.Error("no receipt was kept")
	}
}

// A backup of the header that cannot be reached keeps the erasure incomplete, and the key is gone all the same.
func TestEraseIncomplete(t *testing.T) {
	n := volumetest.NewNode(t)
	id := removed(t, n, "db")
	b := &backups{report: &headerbackup.Report{Unreached: []headerbackup.Gone{{Name: "old", Dir: "/away", Why: "not mounted"}}}}
	m := volume.New(volume.Options{Paths: n.Paths, Storage: n.Process().Storage(), Backups: b, Now: n.Now})
	r, err := m.Erase(t.Context(), seen(t, m, id))
	if err != nil || len(r.Incomplete) != 1 || !strings.Contains(r.Incomplete[0], "/away") {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := m.Undelete(t.Context(), id); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("brought back: %v", err)
	}
	if ids, err := m.Expired(t.Context(), 1000*time.Hour); err != nil || len(ids) != 1 {
		t.Errorf("what is left is not tried again: %v, %v", ids, err)
	}
	b.report = nil
	if r, err = m.Erase(t.Context(), seen(t, m, id)); err != nil || len(r.Incomplete) > 0 || r.Header.How != volume.OverwrittenInPlace || len(b.destroyed) != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	vanished(t, n, id)
}

// F15, F25: what is in use is not erased.
func TestEraseInUse(t *testing.T) {
	n := volumetest.NewNode(t)
	id := removed(t, n, "db")
	n.Pin(filepath.Join(n.Paths.RemovedDir(), id, "image"))
	if _, err := n.Manager().Erase(t.Context(), seen(t, n.Manager(), id)); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("bound to a loop device: %v", err)
	}
	if all, err := n.Manager().RemovedVolumes(t.Context()); err != nil || len(all) != 1 || all[0].Erasing {
		t.Errorf("%+v, %v", all, err)
	}
}

// A process killed after any of its writes, by itself or with the machine. What comes back is whole; what was being erased is erased in the end, and
// nothing is ever in between for a user.
func TestKillUndeleteAndErase(t *testing.T) {
	undelete := func(m *volume.Manager, id string) error { _, err := m.Undelete(t.Context(), id); return err }
	erase := func(m *volume.Manager, id string) error { _, err := m.Erase(t.Context(), seen(t, m, id)); return err }
	for name, do := range map[string]func(*volume.Manager, string) error{"undelete": undelete, "erase": erase} {
		for _, reboot := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/reboot=%t", name, reboot), func(t *testing.T) {
				for k := 1; ; k++ {
					n := volumetest.NewNode(t)
					id := removed(t, n, "db")
					p := n.Process()
					p.KillAt(k)
					err := do(n.ManagerOf(p), id)
					if !p.Dead() {
						if err != nil || k < 3 {
							t.Errorf("%d writes, %v", k-1, err)
						}
						return
					}
					if reboot {
						n.Reboot()
					}
					if err := n.Manager().Reconcile(t.Context()); err != nil {
						t.Errorf("reconcile: %v", err)
					}
					if name == "undelete" {
						if err := do(n.Manager(), id); err != nil && !errors.Is(err, volume.ErrNotFound) {
							t.Errorf("again: %v", err)
						}
						back(t, n, "db", id)
					} else {
						if ids, err := n.Manager().Expired(t.Context(), 1000*time.Hour); err != nil || len(ids) == 0 && !erased(n) {
							t.Errorf("not tried again by itself: %v, %v", ids, err)
						}
						if err := do(n.Manager(), id); err != nil && !errors.Is(err, volume.ErrNotFound) {
							t.Errorf("again: %v", err)
						}
						vanished(t, n, id)
					}
					clean(t, n)
					if t.Failed() {
						t.Fatalf("killed after write %d:\n%s", k, strings.Join(n.Log(), "\n"))
					}
				}
			})
		}
	}
}

// What was brought back and removed again since it was seen has its whole time before it.
func TestEraseOfAnotherRemoval(t *testing.T) {
	n := volumetest.NewNode(t)
	id := removed(t, n, "db")
	old := seen(t, n.Manager(), id)
	n.Sleep(time.Hour)
	if _, err := n.Manager().Undelete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := n.Manager().Remove(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Manager().Erase(t.Context(), old); !errors.Is(err, volume.ErrBusy) {
		t.Errorf("erased what was removed a moment ago: %v", err)
	}
	if _, err := n.Manager().Undelete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	back(t, n, "db", id)
}

// The state directory was restored from a backup: a tombstone has the UUID of a volume that is in use.
func TestEraseOfALivingVolume(t *testing.T) {
	n := volumetest.NewNode(t)
	id := removed(t, n, "db")
	grave := filepath.Join(n.Paths.RemovedDir(), id)
	record, err := os.ReadFile(filepath.Join(grave, "record.json"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Manager().Undelete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(grave, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(grave, "record.json"), record, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Manager().Erase(t.Context(), seen(t, n.Manager(), id)); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("erased a tombstone whose volume lives: %v", err)
	}
	back(t, n, "db", id)
	if err := os.WriteFile(filepath.Join(n.Paths.VolumeDir("db"), "record.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Manager().Erase(t.Context(), seen(t, n.Manager(), id)); !errors.Is(err, volume.ErrDamaged) {
		t.Errorf("erased though a record cannot be read: %v", err)
	}
}

// A time of removal that a crash left in a living volume is not the time of its removal from a full disk.
func TestRemoveWithAnOldTime(t *testing.T) {
	n := volumetest.NewNode(t)
	id := removed(t, n, "db")
	p := n.Process()
	n.ManagerOfAt(p, func(point string) {
		if point == "undelete.renamed" {
			p.Kill()
		}
	}).Undelete(t.Context(), id)
	n.Sleep(48 * time.Hour)
	for k := 1; ; k++ {
		p := n.Process()
		p.FailAt(k, syscall.ENOSPC)
		err := n.ManagerOf(p).Remove(t.Context(), "db")
		if due, err := n.Manager().Expired(t.Context(), 24*time.Hour); err != nil || len(due) > 0 {
			t.Fatalf("write %d fails: due at once: %+v, %v", k, due, err)
		}
		if err == nil {
			return
		}
	}
}

// Nothing is erased early to make room: a full disk names what removed volumes keep.
func TestFullDiskNamesRemovedVolumes(t *testing.T) {
	n := volumetest.NewNode(t)
	id := removed(t, n, "db")
	s := spec(t, n, "new")
	for k := 1; ; k++ {
		p := n.Process()
		p.FailAt(k, syscall.ENOSPC)
		_, _, err := n.ManagerOf(p).Create(t.Context(), s)
		if err == nil {
			break
		}
		if errors.Is(err, volume.ErrNoSpace) && !strings.Contains(err.Error(), "db@") {
			t.Errorf("fails at %d: %v", k, err)
		}
	}
	if _, err := n.Manager().Undelete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	back(t, n, "db", id)
}

// A device that an unfinished volume had was given to another one meanwhile: the first does not come back, and what is on the device stays. F3
func TestUndeleteOfADeviceThatAnotherHas(t *testing.T) {
	n := diskNode(t)
	p := n.Process()
	n.ManagerOfAt(p, func(point string) {
		if point == "create.prepared" {
			p.Kill()
		}
	}).Create(t.Context(), spec(t, n, "first", onDevice...))
	infos, err := n.Manager().List(t.Context())
	if err != nil || len(infos) != 1 {
		t.Fatalf("%+v, %v", infos, err)
	}
	first := infos[0].UUID
	if err := n.Manager().Remove(t.Context(), "first"); err != nil {
		t.Fatal(err)
	}
	id := create(t, n, "second", onDevice...).UUID
	n.Put(mount(t, n, "second", docker("a")), "canary", canary+" in "+id)
	if err := n.Manager().Unmount(t.Context(), "second", "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Manager().Undelete(t.Context(), first); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("brought back: %v", err)
	}
	back(t, n, "second", id)
}
