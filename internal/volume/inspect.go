// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/luks/header"
)

// usagePatience is how long a file system may take to say how full it is; it answers from memory unless something is wrong.
const usagePatience = 500 * time.Millisecond

// List describes all volumes, by name. A damaged one is listed as such and hides no other. It reads the kernel's tables once, and no device.
func (m *Manager) List(ctx context.Context) (infos []Info, err error) {
	defer finishError(&err, "list", "")
	names, _, err := m.names()
	if err != nil {
		return nil, err
	}
	v, err := m.look()
	if err != nil {
		return nil, err
	}
	v.drillEvery = m.drillEvery()
	infos = make([]Info, 0, len(names))
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		info := m.describe(v, name, nil)
		if info.Name != "" {
			infos = append(infos, info)
		}
	}
	return infos, nil
}

// Inspect describes one volume. It reads no device. Errors: ErrNotFound, ErrInvalid.
func (m *Manager) Inspect(ctx context.Context, name string) (info Info, err error) {
	defer finishError(&err, "inspect", name)
	if err := CheckName(name); err != nil {
		return Info{}, &Error{Code: CodeInvalid, Err: err}
	}
	v, err := m.look()
	if err != nil {
		return Info{}, err
	}
	v.drillEvery = m.drillEvery()
	if info = m.describe(v, name, nil); info.Name == "" {
		_, err := m.find(name)
		if err == nil {
			err = &Error{Code: CodeBusy, Err: errors.New("it is being made")}
		}
		return Info{}, err
	}
	return info, nil
}

// Path returns the directory for users of a mounted volume, proven now. Errors: ErrNotFound, ErrInvalid, ErrNotMounted, ErrPlaintext, ErrDamaged.
func (m *Manager) Path(ctx context.Context, name string) (path string, err error) {
	defer finishError(&err, "find", name)
	r, err := m.find(name)
	if err != nil {
		return "", err
	}
	v, err := m.look()
	if err != nil {
		return "", err
	}
	p, err := m.prove(v, r)
	if errors.Is(err, ErrNotMounted) {
		return "", &Error{Code: CodeNotMounted, Err: errors.New("it is not mounted")}
	}
	if err != nil {
		return "", err
	}
	return p.path, nil
}

// describe makes the Info of one volume; its Name is empty if there is no such volume. mine is the lock that the caller holds on it, if any.
func (m *Manager) describe(v *view, name string, mine *lock) Info {
	r, err := m.load(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err = m.vacant(name); err == nil {
			return Info{}
		}
	}
	info := Info{Name: name, Backing: BackingImage, Holders: []Holder{}, Slots: []SlotInfo{}, Options: map[string]string{}}
	if err != nil {
		info.State, info.Reason = StateDamaged, err.Error()
		return info
	}
	info.UUID, info.Size, info.FS, info.Backing, info.Created = r.UUID, r.Spec.Size, r.Spec.FS, r.Spec.Backing, r.Created
	info.Cipher = fmt.Sprintf("%s, %d-bit key", header.DefaultCipher, 8*header.DefaultKeyBytes)
	info.Options, info.Workqueue = r.Spec.options(), WorkqueueOn
	if r.NoQueues {
		info.Workqueue = WorkqueueOff
	}
	info.Slots = append(info.Slots, r.Slots...)
	info.KeySince = oldest(r.Slots)
	info.Drill, info.PastRecipients = r.Drill, r.Past
	if info.DrillDue = info.drillDue(v.drillEvery, m.now()); info.DrillDue != "" {
		info.Warnings = append(info.Warnings, info.DrillDue)
	}
	info.State = r.State
	if note := m.locked(r); info.State == StateReady && note.Reason != "" {
		info.State, info.Reason = StateLocked, note.Reason
		if !note.Next.IsZero() {
			info.NextTry = &note.Next
		}
	}
	held, err := m.holders(name)
	if err != nil {
		info.Warnings = append(info.Warnings, "holders: "+err.Error())
	}
	info.Holders = append(info.Holders, held...)
	if info.Migrating = r.Migrating; r.Migrating != nil {
		info.Warnings = append(info.Warnings, (&MigratingError{name, *r.Migrating}).Error())
	}
	if r.Grow > 0 {
		info.Warnings = append(info.Warnings, fmt.Sprintf("it was begun to grow, and that was interrupted: repeat `voluks volume grow %s %s`", name, config.SizeText(r.Grow)))
	}
	if r.Weak {
		info.Warnings = append(info.Warnings, weakMountpoint)
	}
	if r.Spec.Alloc == AllocSparse {
		if missing, left, err := m.backing(r).Room(); err == nil && left < missing {
			info.Warnings = append(info.Warnings, fmt.Sprintf("its image is sparse, and the disk below has %s left where %s may still be needed: writes will be lost",
				config.FormatSize(left), config.FormatSize(missing)))
		}
	}
	m.describeOpen(v, r, &info)
	if mine == nil {
		if note, stuck := m.stuck(name); stuck {
			info.State, info.Used, info.Avail = StateStuck, nil, nil
			info.Reason = fmt.Sprintf("%s (process %d), begun at %s, is past its deadline: a device below does not answer", note.Op, note.PID,
				note.Since.Format(time.RFC3339))
		}
	}
	return info
}

// describeOpen fills in what the kernel shows of the volume.
func (m *Manager) describeOpen(v *view, r *record, info *Info) {
	p, err := m.prove(v, r)
	switch {
	case err == nil:
		info.State, info.Reason, info.NextTry, info.Mountpoint = StateMounted, "", nil, p.path
		if len(info.Holders) == 0 {
			info.State, info.Reason = StateClosing, "mounted, and nobody holds it"
		}
		if p.mapping.Suspended {
			info.State, info.Reason = StateStuck, fmt.Sprintf("its mapping %s is suspended", p.mapping.Name)
			return
		}
		if halted(p.mount.SuperOptions) {
			info.Warnings = append(info.Warnings, "its file system is read-only, which it becomes by itself after an I/O error: see the kernel's log")
		}
		if n, err := m.s.Kernel.FSErrors(p.mount.FSType, p.mapping.Minor); err == nil && n > 0 {
			info.Warnings = append(info.Warnings, fmt.Sprintf("its file system has recorded %d errors, and may take no more writes: see the kernel's log, and check it with fsck", n))
		}
		m.describeUsage(p.path, info)
		return
	case !errors.Is(err, ErrNotMounted):
		info.State, info.Reason = StateDamaged, err.Error()
		return
	}
	d, err := m.mapping(v, r)
	switch {
	case err != nil:
		info.State, info.Reason = StateDamaged, err.Error()
	case d != nil && d.Suspended:
		info.State, info.Reason = StateStuck, fmt.Sprintf("its mapping %s is suspended", d.Name)
	case d != nil && r.State == StateReady:
		info.State, info.Reason = StateClosing, "not mounted, and still open"
		if users, err := m.users(v, r, d); err == nil && len(users) > 0 {
			info.Reason = "still open: " + strings.Join(users, ", ")
		}
	}
}

// halted tells from a file system's own options whether it has stopped writing. ext4 up to Linux 6.11 says "ro", later ones "emergency_ro" or, in
// between, nothing.
func halted(superOptions string) bool {
	for _, o := range strings.Split(superOptions, ",") {
		if o == "ro" || o == "emergency_ro" || o == "shutdown" {
			return true
		}
	}
	return false
}

// describeUsage asks the file system how full it is. It answers from memory; should it not answer, only this question is left open.
func (m *Manager) describeUsage(path string, info *Info) {
	type answer struct {
		usage filesystem.Usage
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		u, err := m.s.Filesystems.Usage(path)
		answers <- answer{u, err}
	}()
	timer := time.NewTimer(usagePatience)
	defer timer.Stop()
	select {
	case a := <-answers:
		if a.err != nil {
			info.Warnings = append(info.Warnings, a.err.Error())
			return
		}
		info.Used, info.Avail = &a.usage.Used, &a.usage.Avail
	case <-timer.C:
		info.Warnings = append(info.Warnings, "its file system does not answer")
	}
}

// oldest is when the oldest managed slot key was made.
func oldest(slots []SlotInfo) *time.Time {
	var t *time.Time
	for _, s := range slots {
		if !s.Created.IsZero() && (t == nil || s.Created.Before(*t)) {
			t = &s.Created
		}
	}
	return t
}
