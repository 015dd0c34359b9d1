// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
)

func migrate(pid int, start uint64) volume.Holder {
	return volume.Holder{ID: "migrate", Kind: volume.HolderMigrate, PID: pid, Start: start, Comm: "voluks"}
}

// A migration has a volume for itself, whoever comes first; and what it has not ended is given to nobody, the way out in the error, until it was ended or the
// volume is removed.
func TestMigrationIsAlone(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	n.Start(100, 5)
	n.Start(101, 5)
	var held *volume.HeldError
	mount(t, n, "db", docker("a"))
	if _, err := n.Manager().MountForMigration(t.Context(), "db", migrate(100, 5)); !errors.Is(err, volume.ErrInUse) || !errors.As(err, &held) || held.Holders[0].ID != "a" {
		t.Errorf("beside a container: %v", err)
	}
	n.KeepOpen(n.Paths.Mount("db"), true)
	if err := n.Manager().Unmount(t.Context(), "db", "a"); !errors.Is(err, volume.ErrBusy) {
		t.Fatal(err)
	}
	if _, err := n.Manager().MountForMigration(t.Context(), "db", migrate(100, 5)); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("beside somebody whom nobody has recorded: %v", err)
	}
	n.KeepOpen(n.Paths.Mount("db"), false)
	for range 2 {
		if _, err := n.Manager().MountForMigration(t.Context(), "db", migrate(100, 5)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.Manager().MountForMigration(t.Context(), "db", migrate(101, 5)); !errors.Is(err, volume.ErrInUse) {
		t.Errorf("two of them: %v", err)
	}
	if _, err := n.Manager().Mount(t.Context(), "db", docker("b")); !errors.Is(err, volume.ErrInUse) || !errors.As(err, &held) || held.Holders[0].ID != "migrate" {
		t.Errorf("a container meanwhile: %v", err)
	}
	if err := n.Manager().BeginMigration(t.Context(), "db", "/srv/x"); err != nil {
		t.Fatal(err)
	}
	if err := n.Manager().Unmount(t.Context(), "db", "migrate"); err != nil {
		t.Fatal(err)
	}
	n.Reboot()
	var migrating *volume.MigratingError
	for _, h := range []volume.Holder{docker("b"), {ID: "cli", Kind: volume.HolderCLI}, {ID: "unit", Kind: volume.HolderSystemd}} {
		_, err := n.Manager().Mount(t.Context(), "db", h)
		if !errors.Is(err, volume.ErrUnfinished) || !errors.As(err, &migrating) || migrating.Source != "/srv/x" || !strings.Contains(err.Error(), "volume migrate") || !strings.Contains(err.Error(), "volume rm db") {
			t.Errorf("%s: %v", h.Kind, err)
		}
	}
	if info := inspect(t, n, "db"); info.Migrating == nil || len(info.Warnings) == 0 {
		t.Errorf("%+v", info)
	}
	if err := n.Manager().EndMigration(t.Context(), "db"); err == nil {
		t.Error("ended by somebody who does not have it")
	}
	n.Start(100, 5)
	if _, err := n.Manager().MountForMigration(t.Context(), "db", migrate(100, 5)); err != nil {
		t.Fatal(err)
	}
	if err := n.Manager().EndMigration(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	if err := n.Manager().Unmount(t.Context(), "db", "migrate"); err != nil {
		t.Fatal(err)
	}
	mount(t, n, "db", docker("b"))
}

// A migration that was killed keeps nobody out for longer than it must: one that had written nothing yet not at all, and its mount is closed by the sweeps.
func TestMigrationKilled(t *testing.T) {
	for _, begun := range []bool{false, true} {
		n := volumetest.NewNode(t)
		create(t, n, "db")
		n.Start(100, 5)
		if _, err := n.Manager().MountForMigration(t.Context(), "db", migrate(100, 5)); err != nil {
			t.Fatal(err)
		}
		if begun {
			if err := n.Manager().BeginMigration(t.Context(), "db", "x"); err != nil {
				t.Fatal(err)
			}
		}
		n.Start(100, 6) // another process of that number
		if _, err := n.Manager().Mount(t.Context(), "db", docker("a")); (err == nil) == begun || begun && !errors.Is(err, volume.ErrUnfinished) {
			t.Errorf("begun %t: %v", begun, err)
		}
		if !begun {
			continue
		}
		for range 2 {
			if err := n.Manager().Reconcile(t.Context()); err != nil {
				t.Fatal(err)
			}
			n.Sleep(2 * time.Minute)
		}
		clean(t, n)
	}
}

// A kill right after any write of a migration's calls leaves a volume that either is whole and says so, or is given to nobody; and the calls can be repeated.
func TestMigrationKilledAtEachWrite(t *testing.T) {
	for k := 1; ; k++ {
		n := volumetest.NewNode(t)
		create(t, n, "db")
		p := n.Process()
		p.KillAt(k)
		run := func(m *volume.Manager, pid int) error {
			n.Start(pid, 5)
			if _, err := m.MountForMigration(t.Context(), "db", migrate(pid, 5)); err != nil {
				return err
			}
			if err := m.BeginMigration(t.Context(), "db", "x"); err != nil {
				return err
			}
			n.Put(n.Paths.Mount("db")+"/data", "half", "of the data")
			if err := m.EndMigration(t.Context(), "db"); err != nil {
				return err
			}
			return m.Unmount(t.Context(), "db", "migrate")
		}
		err := run(n.ManagerOf(p), 100)
		if !p.Dead() {
			if err != nil || k < 8 {
				t.Errorf("without a kill after %d writes: %v", k, err)
			}
			return
		}
		n.Start(100, 6)
		info := inspect(t, n, "db")
		_, err = n.Manager().Mount(t.Context(), "db", docker("a"))
		if info.Migrating != nil != errors.Is(err, volume.ErrUnfinished) {
			t.Errorf("kill %d: migrating %v, mount: %v", k, info.Migrating, err)
		}
		if err == nil {
			if err := n.Manager().Unmount(t.Context(), "db", "a"); err != nil {
				t.Errorf("kill %d: %v", k, err)
			}
		}
		if err := run(n.Manager(), 101); err != nil {
			t.Errorf("kill %d, again: %v", k, err)
		}
		mount(t, n, "db", docker("b"))
	}
}
