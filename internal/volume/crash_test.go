// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
)

const canary = "what a user wrote"

// operation is one thing that a process can be killed in.
type operation struct {
	name  string
	setup func(t *testing.T, n *volumetest.Node)
	run   func(t *testing.T, n *volumetest.Node, m *volume.Manager) error
	// served says that the volume was in use before, so its data must survive.
	served bool
}

func operations() []operation {
	served := func(t *testing.T, n *volumetest.Node) {
		create(t, n, "db")
		path := mount(t, n, "db", docker("first"))
		n.Put(path, "canary", canary)
	}
	closed := func(t *testing.T, n *volumetest.Node) {
		served(t, n)
		if err := n.Manager().Unmount(t.Context(), "db", "first"); err != nil {
			t.Fatal(err)
		}
	}
	doCreate := func(t *testing.T, n *volumetest.Node, m *volume.Manager) error {
		_, _, err := m.Create(t.Context(), spec(t, n, "db"))
		return err
	}
	doMount := func(id string) func(*testing.T, *volumetest.Node, *volume.Manager) error {
		return func(t *testing.T, n *volumetest.Node, m *volume.Manager) error {
			_, err := m.Mount(t.Context(), "db", docker(id))
			return err
		}
	}
	unmount := func(t *testing.T, n *volumetest.Node, m *volume.Manager) error {
		return m.Unmount(t.Context(), "db", "first")
	}
	return []operation{
		{name: "create", setup: func(*testing.T, *volumetest.Node) {}, run: doCreate},
		{name: "create on LVM", setup: func(_ *testing.T, n *volumetest.Node) {
			n.Group(groupName)
			n.Defaults.VolumeGroups = []string{groupName}
		},
			run: func(t *testing.T, n *volumetest.Node, m *volume.Manager) error {
				_, _, err := m.Create(t.Context(), spec(t, n, "db", onLVM...))
				return err
			}},
		{name: "create again", setup: closed, run: doCreate, served: true},
		{name: "mount", setup: closed, run: doMount("first"), served: true},
		{name: "mount a second time", setup: served, run: doMount("second"), served: true},
		{name: "unmount", setup: served, run: unmount, served: true},
		{name: "unmount one of two", setup: func(t *testing.T, n *volumetest.Node) { served(t, n); mount(t, n, "db", docker("second")) }, run: unmount, served: true},
		{name: "settle", setup: func(t *testing.T, n *volumetest.Node) {
			closed(t, n)
			// A mount that nobody holds.
			p := n.Process()
			n.ManagerOfAt(p, func(point string) {
				if point == "mount.proven" {
					p.Kill()
				}
			}).Mount(t.Context(), "db", docker("gone"))
		}, run: func(t *testing.T, n *volumetest.Node, m *volume.Manager) error { return m.Settle(t.Context(), "db") }, served: true},
		{name: "remove", setup: closed, run: func(t *testing.T, n *volumetest.Node, m *volume.Manager) error {
			err := m.Remove(t.Context(), "db")
			if errors.Is(err, volume.ErrNotFound) {
				err = nil // the first one got that far
			}
			return err
		}, served: true},
	}
}

// F9, F14, F21: a process killed right after any of its writes, by itself or together with the machine. Afterwards Reconcile works, the same operation
// works, no data is lost, nothing that was in use is formatted (the machine watches), and everything can be closed without a trace.
func TestKillAtEachWrite(t *testing.T) {
	for _, o := range operations() {
		for _, reboot := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/reboot=%t", o.name, reboot), func(t *testing.T) {
				for k := 1; killAt(t, o, k, reboot, 0); k++ {
				}
			})
		}
	}
}

// The repair is killed as well, at each of its writes.
func TestKillTheRepairToo(t *testing.T) {
	for _, o := range operations() {
		t.Run(o.name, func(t *testing.T) {
			for k := 1; ; k += 3 {
				more := false
				for again := 1 + k%2; killAt(t, o, k, false, again); again += 2 {
					more = true
				}
				if !more {
					return
				}
			}
		})
	}
}

// killAt kills an operation after its write k, and if again is positive the repair after its write again. It is false if there are not that many
// writes.
func killAt(t *testing.T, o operation, k int, reboot bool, again int) bool {
	t.Helper()
	n := volumetest.NewNode(t)
	o.setup(t, n)
	p := n.Process()
	p.KillAt(k)
	err := o.run(t, n, n.ManagerOf(p))
	if !p.Dead() {
		if err != nil {
			t.Errorf("without a kill: %v", err)
		}
		return false
	}
	if reboot {
		n.Reboot()
	}
	if again > 0 {
		p := n.Process()
		p.KillAt(again)
		m := n.ManagerOf(p)
		m.Reconcile(t.Context())
		o.run(t, n, m)
		if !p.Dead() {
			return false
		}
	}
	afterwards(t, n, o, reboot)
	if t.Failed() {
		t.Fatalf("killed after write %d, then %d:\n%s", k, again, strings.Join(n.Log(), "\n"))
	}
	return true
}

func afterwards(t *testing.T, n *volumetest.Node, o operation, reboot bool) {
	t.Helper()
	ctx := t.Context()
	if err := n.Manager().Reconcile(ctx); err != nil {
		t.Errorf("reconcile: %v", err)
	}
	// Whatever is open now is held.
	infos, err := n.Manager().List(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, i := range infos {
		if i.State == volume.StateClosing || i.State == volume.StateDamaged || (i.State == volume.StateMounted) != (len(i.Holders) > 0) {
			t.Errorf("after reconcile: %s is %s (%s) with holders %v", i.Name, i.State, i.Reason, i.Holders)
		}
	}
	if names, err := n.Manager().Unsettled(ctx); err != nil || len(names) > 0 && infos[0].Finished() {
		t.Errorf("after reconcile: unsettled %v, %v", names, err)
	}
	if o.name == "remove" {
		if err := o.run(t, n, n.Manager()); err != nil {
			t.Errorf("again: %v", err)
		}
		tombstoned(t, n)
		return
	}
	if !reboot || o.name != "unmount" && o.name != "unmount one of two" {
		if err := o.run(t, n, n.Manager()); err != nil {
			t.Errorf("again: %v", err)
		}
	}
	path, err := n.Manager().Mount(ctx, "db", docker("check"))
	if err != nil {
		t.Errorf("mount: %v", err)
		return
	}
	if got := n.Get(path, "canary"); o.served && got != canary {
		t.Errorf("the data is lost: %q", got)
	}
	for _, id := range []string{"first", "second", "check", "gone"} {
		if err := n.Manager().Unmount(ctx, "db", id); err != nil {
			t.Errorf("unmount: %v", err)
		}
	}
	clean(t, n)
	if err := n.Manager().Remove(ctx, "db"); err != nil {
		t.Errorf("remove: %v", err)
	}
	for _, dir := range []string{n.Paths.VolumesDir(), n.Paths.MountsDir(), n.Paths.HoldersDir()} {
		if entries, _ := os.ReadDir(dir); len(entries) > 0 {
			t.Errorf("%s has %v", dir, entries)
		}
	}
}

// tombstoned checks that a removed volume is whole under its tombstone.
func tombstoned(t *testing.T, n *volumetest.Node) {
	t.Helper()
	clean(t, n)
	images, _ := filepath.Glob(filepath.Join(n.Paths.RemovedDir(), "*", "image"))
	if len(images) != 1 {
		t.Errorf("tombstones %v", images)
		return
	}
	if _, _, complete, ok := n.Container(images[0]); !ok || !complete {
		t.Error("the tombstone has no whole container")
	}
}

// A creation that was killed is finished by a creation with other options too: nobody ever had what was begun.
func TestCreateOtherOptionsAfterCrash(t *testing.T) {
	for _, point := range []string{"create.prepared", "create.allocated", "create.formatted", "create.data"} {
		n := volumetest.NewNode(t)
		crash(t, n, point)
		info, made, err := n.Manager().Create(t.Context(), spec(t, n, "db", "size=128M"))
		if err != nil || !made || info.Size != 128<<20 {
			t.Errorf("%s: made %t, %+v, %v", point, made, info, err)
		}
		clean(t, n)
	}
}

// Once it is complete, whatever the record says, other options are an error (F10) and Mount works.
func TestCompleteAfterCrash(t *testing.T) {
	n := volumetest.NewNode(t)
	crash(t, n, "create.token")
	if _, err := n.Manager().Mount(t.Context(), "db", docker("a")); !errors.Is(err, volume.ErrUnfinished) {
		t.Errorf("mount: %v", err)
	}
	if _, _, err := n.Manager().Create(t.Context(), spec(t, n, "db", "size=128M")); !errors.Is(err, volume.ErrExists) {
		t.Errorf("create: %v", err)
	}
	clean(t, n)
	if _, err := n.Manager().Mount(t.Context(), "db", docker("a")); err != nil {
		t.Errorf("mount: %v", err)
	}
}

// A whole file system is adopted: what mkfs has made once is not made again.
func TestAdoptFilesystem(t *testing.T) {
	n := volumetest.NewNode(t)
	crash(t, n, "create.data")
	before := len(n.Log())
	if _, _, err := n.Manager().Create(t.Context(), spec(t, n, "db")); err != nil {
		t.Fatal(err)
	}
	for _, line := range n.Log()[before:] {
		if strings.Contains(line, "mkfs") || strings.Contains(line, "format") {
			t.Errorf("log: %s", line)
		}
	}
}

// A tombstone says since when it is one, for whoever purges it.
func TestTombstoneHasATime(t *testing.T) {
	n := volumetest.NewNode(t)
	info := create(t, n, "db")
	if err := n.Manager().Remove(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(n.Paths.RemovedDir(), info.UUID, "record.json"))
	var r struct{ Removed time.Time }
	if err != nil || json.Unmarshal(b, &r) != nil || n.Now().Sub(r.Removed).Abs() > time.Minute {
		t.Errorf("%s, %v", b, err)
	}
}
