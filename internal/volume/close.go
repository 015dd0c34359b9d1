// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks"
)

const busyPause = 20 * time.Millisecond

// patiently repeats what the kernel calls busy until it works, patience is over or ctx ends. The last error is returned.
func (m *Manager) patiently(ctx context.Context, busy error, try func() error) error {
	end := time.Now().Add(m.o.Patience)
	for {
		err := try()
		if !errors.Is(err, busy) || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(busyPause):
		}
	}
}

// unmount takes everything off a mountpoint of ours; nothing there is success. It is never lazy: a file system that is used stays.
func (m *Manager) unmount(ctx context.Context, target string) error {
	err := m.patiently(ctx, sys.ErrBusy, func() error { return m.s.Filesystems.Unmount(ctx, target) })
	if errors.Is(err, sys.ErrNotExist) {
		return nil
	}
	return err
}

// closeMapping removes a mapping; none is success.
func (m *Manager) closeMapping(ctx context.Context, name string) error {
	err := m.patiently(ctx, luks.ErrBusy, func() error { return m.s.Containers.Close(name) })
	if errors.Is(err, luks.ErrNotActive) {
		return nil
	}
	return err
}

// clear closes whatever the kernel holds of a volume that nobody holds: mounts at our own places, the mapping, the loop device. What is mounted there
// and is not this volume's is not touched. If somebody else uses the file system the error is ErrBusy around a *HeldError, and everything that is
// used stays as it is.
func (m *Manager) clear(ctx context.Context, r *record) error {
	v, err := m.look()
	if err != nil {
		return err
	}
	d, err := own(v, r)
	if err != nil {
		return err
	}
	if d != nil {
		if err := m.clearMounts(ctx, v, r, d); err != nil {
			return m.held(r, d, err)
		}
		m.o.Crash("unmount.unmounted")
		if err := m.closeMapping(ctx, d.Name); err != nil {
			return m.held(r, d, err)
		}
		m.o.Crash("unmount.closed")
	}
	if err := m.s.Files.Remove(m.private(r.UUID)); err != nil {
		m.log.Warn("leftover directory", "volume", r.Name, "err", err)
	}
	if err := m.backing(r).Detach(ctx); err != nil {
		return err
	}
	m.o.Crash("unmount.detached")
	if r.Spec.Ephemeral {
		return m.backing(r).Remove(ctx) // which nothing opens any more
	}
	return nil
}

// clearMounts takes the volume off its mountpoint and the private one, as often as it is there.
func (m *Manager) clearMounts(ctx context.Context, v *view, r *record, d *sys.DMDevice) error {
	ours := []string{m.private(r.UUID)}
	if p, err := m.mountpoint(r.Name); err == nil {
		ours = append(ours, p)
	} else if !errors.Is(err, ErrNotMounted) {
		return err
	}
	for _, mount := range slices.Backward(mountsOf(v.mounts, r, d)) {
		if !slices.Contains(ours, mount.Mountpoint) {
			continue
		}
		if top, ok := v.tree.visible(mount.Mountpoint); ok && top.ID != mount.ID && top.Mountpoint == mount.Mountpoint && !sameDevice(top, mount) {
			return fmt.Errorf("unmount %s: something else (%s) is mounted over it: %w", mount.Mountpoint, top.Source, sys.ErrBusy)
		}
		if err := m.unmount(ctx, mount.Mountpoint); err != nil {
			return err
		}
	}
	return nil
}

func sameDevice(a, b sys.MountInfo) bool { return a.Major == b.Major && a.Minor == b.Minor }

// held turns "busy" into an error that names who keeps the volume open. Any other error stays as it is.
func (m *Manager) held(r *record, d *sys.DMDevice, err error) error {
	if !errors.Is(err, sys.ErrBusy) && !errors.Is(err, luks.ErrBusy) {
		return err
	}
	var open *filesystem.BusyError
	if errors.As(err, &open) && len(open.Users) > 0 {
		others := make([]string, 0, len(open.Users))
		for _, u := range open.Users {
			others = append(others, "used by "+u.String())
		}
		return &Error{Code: CodeBusy, Err: &HeldError{Others: others, Closing: true}}
	}
	others, err2 := []string(nil), error(nil)
	if v, err := m.look(); err == nil { // anew: our own mounts are gone by now
		others, err2 = m.users(v, r, d)
	}
	if err2 != nil {
		others = append(others, err2.Error())
	}
	if len(others) == 0 {
		others = []string{err.Error()}
	}
	return &Error{Code: CodeBusy, Err: &HeldError{Others: others, Closing: true}}
}

// users describes every mount of the mapping that is not voluks's own, in all namespaces: who has the file system. A copy of our own mount in
// another namespace, at the same path, is what every service with a namespace of its own gets and loses with ours; it is listed only once ours is
// gone, since it then stays for good (F17).
func (m *Manager) users(v *view, r *record, d *sys.DMDevice) ([]string, error) {
	spaces, err := m.namespaces(v)
	if err != nil {
		return nil, err
	}
	mountpoint := v.mountpoint(r.Name)
	here := slices.ContainsFunc(mountsOf(v.mounts, r, d), func(i sys.MountInfo) bool { return i.Mountpoint == mountpoint })
	var users []string
	for _, space := range spaces {
		for _, mount := range mountsOf(space.Mounts, r, d) {
			if here && v.comesWithOurs(space.Mounts, mount, r) {
				continue
			}
			who := "no process"
			if len(space.PIDs) > 0 {
				who = fmt.Sprintf("process %d", slices.Min(space.PIDs))
			}
			users = append(users, fmt.Sprintf("mounted at %s in the mount namespace of %s", mount.Mountpoint, who))
		}
	}
	if here && len(users) == 0 {
		users = []string{"a process has files open, or its working directory, below " + mountpoint}
	}
	return users, nil
}
