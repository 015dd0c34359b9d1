// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
	"github.com/voluks/voluks/keyslot"
)

// A header has a backup from its creation on, and each change renews it: nothing of an older one is left. What somebody else has changed is backed up
// when the volume is opened next, and what was there stays. F36
func TestEachChangeIsBackedUp(t *testing.T) {
	n := volumetest.NewNode(t)
	info := create(t, n, "db")
	newest := func(what string, count int) {
		t.Helper()
		all := n.Backups(info.UUID)
		_, epoch, _, _ := n.Container(imageOf(n, "db"))
		if len(all) != count || all[len(all)-1].Header.Epoch != epoch {
			t.Fatalf("%s: %d backups, the newest of epoch %d, the header of epoch %d", what, len(all), all[len(all)-1].Header.Epoch, epoch)
		}
	}
	newest("create", 1)
	for _, role := range []string{keyslot.RoleAgent, keyslot.RoleRecovery} {
		if _, err := n.Manager().Rotate(t.Context(), "db", role); err != nil {
			t.Fatal(err)
		}
		newest(role, 1)
	}
	n.Kick(imageOf(n, "db"))
	mount(t, n, "db", docker("a"))
	newest("changed by others", 2)
	mount(t, n, "db", docker("b"))
	newest("mounted again", 2)
	report, err := n.Manager().BackUpHeader(t.Context(), "db")
	if err != nil || len(report.Destroyed) != 2 {
		t.Fatalf("%+v, %v", report, err)
	}
	newest("by hand", 1)
}

// A process killed after any write of a restore, with and without the machine: the restore, called again, ends with the header of the backup, the
// volume opens with what the node holds, and nothing is lost. F29
func TestKillWhileAHeaderIsRestored(t *testing.T) {
	for _, damaged := range []bool{true, false} {
		for _, reboot := range []bool{false, true} {
			for k := 1; ; k++ {
				n := volumetest.NewNode(t)
				info := create(t, n, "db")
				path := mount(t, n, "db", docker("a"))
				n.Put(path, "canary", canary)
				if err := n.Manager().Unmount(t.Context(), "db", "a"); err != nil {
					t.Fatal(err)
				}
				if damaged {
					n.Damage(imageOf(n, "db"))
				}
				params := volume.RestoreParams{Image: n.Backups(info.UUID)[0]}
				p := n.Process()
				p.KillAt(k)
				_, err := n.ManagerOf(p).RestoreHeader(t.Context(), "db", params)
				if !p.Dead() {
					if err != nil {
						t.Errorf("not killed: %v", err)
					}
					if k < 3 {
						t.Errorf("only %d writes", k-1)
					}
					break
				}
				if reboot {
					n.Reboot()
				}
				r, err := n.Manager().RestoreHeader(t.Context(), "db", params)
				if err != nil || r.Older != "" || r.Generation != 1 {
					t.Errorf("killed after %d: again: %+v, %v", k, r, err)
				}
				all := n.Backups(info.UUID)
				if _, epoch, _, _ := n.Container(imageOf(n, "db")); all[len(all)-1].Header.Epoch != epoch {
					t.Errorf("killed after %d: the restored header has epoch %d, the newest backup %d", k, epoch, all[len(all)-1].Header.Epoch)
				}
				path = mount(t, n, "db", docker("b"))
				if got := n.Get(path, "canary"); got != canary {
					t.Errorf("killed after %d: the data is %q", k, got)
				}
				if _, err := n.Manager().Rotate(t.Context(), "db", keyslot.RoleAgent); err != nil {
					t.Errorf("killed after %d: rotate: %v", k, err)
				}
				if _, _, slots := generations(t, n, "db"); slots != 2 {
					t.Errorf("killed after %d: %d slots", k, slots)
				}
				if err := n.Manager().Unmount(t.Context(), "db", "b"); err != nil {
					t.Error(err)
				}
				clean(t, n)
				if t.Failed() {
					t.Fatalf("damaged %t, reboot %t, killed after write %d:\n%s", damaged, reboot, k, strings.Join(n.Log(), "\n"))
				}
			}
		}
	}
}

// F36 F40: an older backup is refused; accepted, it stays closed to everything but the way that rotates its keys at once, also after each crash.
func TestRestoreOlderHeader(t *testing.T) {
	for k := 0; ; k++ {
		n := volumetest.NewNode(t)
		info := create(t, n, "db")
		old := n.Backups(info.UUID)[0]
		n.KeepBackups(info.UUID) // an attacker has a copy
		if _, err := n.Manager().Rotate(t.Context(), "db", keyslot.RoleAgent); err != nil {
			t.Fatal(err)
		}
		if got := n.Backups(info.UUID); len(got) != 1 || got[0] == old {
			t.Fatal("the old backup is still there")
		}
		n.KeepBackups(info.UUID)
		var older *headerbackup.OlderError
		if _, err := n.Manager().RestoreHeader(t.Context(), "db", volume.RestoreParams{Image: old}); !errors.As(err, &older) || !errors.Is(err, volume.ErrInvalid) {
			t.Fatalf("an older one: %v", err)
		}
		params := volume.RestoreParams{Image: old, AcceptOlder: true}
		p := n.Process()
		p.KillAt(k)
		r, err := n.ManagerOf(p).RestoreHeader(t.Context(), "db", params)
		if p.Dead() {
			r, err = n.Manager().RestoreHeader(t.Context(), "db", params)
		}
		if err != nil || k == 0 && r.Older == "" {
			t.Fatalf("killed after %d: %+v, %v", k, r, err)
		}
		if _, err := n.Manager().Mount(t.Context(), "db", docker("a")); !errors.Is(err, volume.ErrOlderHeader) {
			t.Errorf("killed after %d: mount: %v", k, err)
		}
		if _, err := n.Manager().BackUpHeader(t.Context(), "db"); !errors.Is(err, volume.ErrOlderHeader) {
			t.Errorf("killed after %d: backup: %v", k, err)
		}
		if _, err := n.Manager().AcceptOlderHeader(t.Context(), "db"); err != nil {
			t.Fatal(err)
		}
		mount(t, n, "db", docker("a"))
		if a, rec, slots := generations(t, n, "db"); a <= 3 || rec < 2 || slots != 2 {
			t.Errorf("killed after %d: generations %d, %d in %d slots", k, a, rec, slots)
		}
		if got := n.Backups(info.UUID); len(got) != 1 {
			t.Errorf("killed after %d: %d backups are left", k, len(got))
		}
		if k > 0 && !p.Dead() {
			break
		}
	}
}

// F40: an old record beside a newer header, as after the state was restored from a backup: the header is the manifest, and the record follows.
func TestOldRecordFollowsTheHeader(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	record := filepath.Join(n.Paths.VolumeDir("db"), "record.json")
	before, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Manager().Rotate(t.Context(), "db", keyslot.RoleAgent, keyslot.RoleRecovery); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(record, before, 0o600); err != nil {
		t.Fatal(err)
	}
	mount(t, n, "db", docker("a"))
	if a, rec, slots := generations(t, n, "db"); a != 2 || rec != 3 || slots != 2 {
		t.Errorf("the record has generations %d, %d in %d slots", a, rec, slots)
	}
}

func TestRestoreRefuses(t *testing.T) {
	n := volumetest.NewNode(t)
	db, other := create(t, n, "db"), create(t, n, "other")
	restore := func(name string, image *headerbackup.Image) error {
		_, err := n.Manager().RestoreHeader(t.Context(), name, volume.RestoreParams{Image: image, AcceptOlder: true})
		return err
	}
	ours := n.Backups(db.UUID)[0]
	if err := restore("db", n.Backups(other.UUID)[0]); !errors.Is(err, headerbackup.ErrOther) || !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("another volume's: %v", err)
	}
	if err := restore("none", ours); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("no volume: %v", err)
	}
	mount(t, n, "db", docker("a"))
	if err := restore("db", ours); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("open: %v", err)
	}
	if len(n.Backups(db.UUID)) != 1 {
		t.Error("refused, and something was written")
	}
}
