// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks/header"
)

// Settle repairs one volume after a crash: what is open and held stays as it is; what is open and not held is closed; a record one step behind its
// header catches up; holders that are gone are forgotten after two sweeps. It never formats and needs no key. A name that no volume has loses the
// empty directories that a removal left.
//
// Errors: ErrInvalid, ErrBusy (around a *HeldError if somebody keeps it open), ErrStuck, ErrDamaged, ErrPlaintext.
func (m *Manager) Settle(ctx context.Context, name string) (err error) {
	defer finishError(&err, "settle", name)
	if err := CheckName(name); err != nil {
		return &Error{Code: CodeInvalid, Err: err}
	}
	l, err := m.lockVolume(ctx, name, "settle")
	if err != nil {
		return err
	}
	defer l.Release()
	r, err := m.load(name)
	if errors.Is(err, fs.ErrNotExist) {
		return m.settleNothing(name)
	}
	if err != nil {
		return err
	}
	if err := m.sweep(r); err != nil {
		return err
	}
	held, err := m.holders(name)
	if err != nil || len(held) > 0 {
		return err
	}
	if err := m.clear(ctx, r); err != nil {
		return err
	}
	return m.settleRecord(ctx, r)
}

// settleNothing clears what is left where no volume is: an empty directory of a creation that had only begun, an empty mountpoint, the holders of a
// volume that was removed by hand.
func (m *Manager) settleNothing(name string) error {
	if err := m.vacate(name); err != nil {
		return err
	}
	if err := m.s.Files.Remove(m.o.Paths.VolumeDir(name)); err != nil {
		return err
	}
	return m.removeTraces(name)
}

// settleRecord brings the record of an unfinished volume up to its header: with a volume token the volume is complete (F9).
func (m *Manager) settleRecord(ctx context.Context, r *record) error {
	if r.State == StateReady {
		return nil
	}
	c, _, err := m.door(ctx, r)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	h, err := c.Header()
	if errors.Is(err, header.ErrNotLUKS) || errors.Is(err, header.ErrDamaged) {
		return nil
	}
	if err != nil {
		return err
	}
	if h.UUID != r.UUID {
		return nil
	}
	slots, err := keyslot.State(h)
	if slots.Volume == nil {
		return err
	}
	r.observe(slotInfos(slots))
	m.log.Info("an interrupted creation turns out to be complete", "volume", r.Name)
	r.State = StateReady
	return m.save(r)
}

// sweep forgets stale holders: Docker never sends Unmount for a container that died with a killed dockerd, nor does a migration that was killed. A holder is stale when, in two
// sweeps with time between them, the dockerd that asked for it is gone and nobody but voluks has the file system mounted. Whatever cannot be found
// out counts as alive (F51), and so does every holder of another kind.
func (m *Manager) sweep(r *record) error {
	notes, err := m.holderNotes(r.Name)
	if err != nil || len(notes) == 0 {
		return err
	}
	v, err := m.look()
	if err != nil {
		return err
	}
	for _, n := range notes {
		switch stale := m.stale(v, r, n); {
		case !stale && n.Doubt.IsZero():
		case !stale:
			n.Doubt = time.Time{}
			err = m.writeHolder(r.Name, n)
		case n.Doubt.IsZero():
			n.Doubt = m.now().UTC()
			err = m.writeHolder(r.Name, n)
		case m.now().Sub(n.Doubt) >= m.o.SweepGap:
			m.log.Info("a holder is gone without a word", "volume", r.Name, "holder", n.Holder.String(), "process", n.PID)
			err = m.dropHolder(r.Name, n.ID)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// stale tells whether a holder is positively gone at this moment.
func (m *Manager) stale(v *view, r *record, n holderNote) bool {
	if n.Kind != HolderDocker && n.Kind != HolderMigrate || !m.ended(n.Holder) {
		return false
	}
	d, err := own(v, r)
	if err != nil {
		return false
	}
	if d == nil {
		return true // not open, so nobody can have it
	}
	used, err := m.used(v, r, d)
	return err == nil && !used
}

// ended tells whether the process of a holder is positively gone.
func (m *Manager) ended(h Holder) bool {
	if h.PID == 0 || h.Start == 0 {
		return false
	}
	start, err := m.s.Kernel.ProcessStart(h.PID)
	return err == nil && start != h.Start || errors.Is(err, fs.ErrNotExist)
}

// used tells whether anybody but voluks has the file system mounted, in any namespace.
func (m *Manager) used(v *view, r *record, d *sys.DMDevice) (bool, error) {
	spaces, err := m.namespaces(v)
	if err != nil {
		return true, err
	}
	for _, space := range spaces {
		for _, mount := range mountsOf(space.Mounts, r, d) {
			if !v.comesWithOurs(space.Mounts, mount, r) {
				return true, nil
			}
		}
	}
	return false, nil
}

// comesWithOurs tells whether a mount is the volume's own, or a copy of that which the kernel made and takes away together with it. Such copies are no use
// of the volume: services with a mount namespace of their own have one at the same path, and Docker has one for a managed plugin, at another.
func (v *view) comesWithOurs(table []sys.MountInfo, mount sys.MountInfo, r *record) bool {
	mountpoint := v.mountpoint(r.Name)
	if mount.Root != "/" || mount.Mountpoint == mountpoint {
		return mount.Root == "/"
	}
	// It went there if what it is mounted on follows the directory of our mountpoints.
	dir, _ := v.tree.visible(v.mountsDir)
	for _, parent := range table {
		if parent.ID == mount.Parent {
			rest, ok := strings.CutPrefix(mount.Mountpoint, parent.Mountpoint)
			return ok && dir.PeerGroup() != "" && parent.Master() == dir.PeerGroup() &&
				filepath.Join(parent.Root, rest) == filepath.Join(dir.Root, strings.TrimPrefix(mountpoint, dir.Mountpoint))
		}
	}
	return false
}

// names lists everything that has the name of a volume somewhere: records, and leftovers of names without one.
func (m *Manager) names() (volumes, traces []string, err error) {
	list := func(dir string) ([]string, error) {
		all, err := m.s.Files.List(dir)
		return slices.DeleteFunc(all, func(name string) bool { return CheckName(name) != nil }), err
	}
	if volumes, err = list(m.o.Paths.VolumesDir()); err != nil {
		return nil, nil, err
	}
	seen := make(map[string]bool, len(volumes))
	for _, name := range volumes {
		seen[name] = true
	}
	for _, dir := range []string{m.o.Paths.MountsDir(), m.o.Paths.HoldersDir()} {
		found, err := list(dir)
		if err != nil {
			return nil, nil, err
		}
		for _, name := range found {
			if !seen[name] {
				seen[name] = true
				traces = append(traces, name)
			}
		}
	}
	return volumes, traces, nil
}

// Unsettled names the volumes that Settle has, or may have, something to do for: unfinished, open without a holder, with Docker holders whose
// dockerd is gone, and names with leftovers but no volume. It takes no lock, so an operation that runs may make a volume look unsettled; Settle
// then waits for it and finds nothing to do.
func (m *Manager) Unsettled(ctx context.Context) (names []string, err error) {
	defer finishError(&err, "settle", "")
	volumes, traces, err := m.names()
	if err != nil {
		return nil, err
	}
	v, err := m.look()
	if err != nil {
		return nil, err
	}
	for _, name := range volumes {
		if m.unsettled(v, name) {
			names = append(names, name)
		}
	}
	return append(names, traces...), nil
}

func (m *Manager) unsettled(v *view, name string) bool {
	r, err := m.load(name)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil {
		return false // nothing that Settle could do; List shows it
	}
	if r.State != StateReady {
		return true
	}
	notes, err := m.holderNotes(name)
	if err != nil {
		return true
	}
	for _, n := range notes {
		if !n.Doubt.IsZero() || m.stale(v, r, n) {
			return true
		}
	}
	if len(notes) > 0 {
		return false
	}
	if r.Spec.Ephemeral {
		if _, err := m.backing(r).Size(context.Background()); !errors.Is(err, fs.ErrNotExist) {
			return true // an image that nobody holds any more
		}
	}
	d, err := own(v, r)
	return d != nil || err != nil
}

// Reconcile settles every volume. One that fails does not keep the others; the error joins what went wrong with each, nil if all are as they should
// be. Tombstones and everything that is not voluks's own are left alone.
func (m *Manager) Reconcile(ctx context.Context) error {
	names, err := m.Unsettled(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if err := m.Settle(ctx, name); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
