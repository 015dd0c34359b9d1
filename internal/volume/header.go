// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"

	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks/header"
)

// What a crash leaves while a header is restored, and who repairs it. What happens on the device stands in package headerbackup.
//
//	after this step                   a crash leaves                                              repaired by
//	backup of what is there           one backup more                                             the next change of the header destroys it
//	header, any part of it            the header as it was, or the restored one, or, if neither   RestoreHeader, again: the backup stays
//	                                  was good before, a damaged one
//	header                            a record that shows the slots of before                     the next Mount
//	record                            no backup with the epoch of the restored header             the next Mount
//	its backup                        everything
//
// The record's generation never falls. So an older header, whoever put it there, stays refused until its keys are rotated.

// RestoreParams say which header a volume gets, and what is accepted.
type RestoreParams struct {
	Image *headerbackup.Image // what is restored
	// Identities are those that opened the backup. The restored recovery slot is proven with them.
	Identities []recovery.Identity
	// AcceptOlder restores a header that is older than the volume had reached. The volume stays refused until AcceptOlderHeader has rotated its keys.
	AcceptOlder bool
	// DiscardPresent restores although the header that is there cannot be backed up.
	DiscardPresent bool
}

// HeaderReceipt says what RestoreHeader did. It holds no secret.
type HeaderReceipt struct {
	Volume     string `json:"volume"`               // its name
	UUID       string `json:"uuid"`                 // of the LUKS header
	Generation uint64 `json:"generation"`           // of the header that is there now
	Epoch      uint64 `json:"epoch"`                // likewise
	Older      string `json:"older,omitempty"`      // by what it is older than the volume had reached
	Saved      string `json:"saved,omitempty"`      // name of the backup of the header that was there
	Proven     []int  `json:"proven,omitempty"`     // slots that were shown to open
	NotProven  string `json:"not_proven,omitempty"` // why none was
}

// RestoreHeader writes the header of a backup to a volume that is closed, and reads it back. Before anything is written it refuses a backup of another
// volume (headerbackup.ErrOther), one that is older than what record, header and other backups know of (headerbackup.ErrOlder) unless that is
// accepted, and a volume that is open by whomever. It can be repeated after a crash at any point.
//
// Errors: ErrNotFound, ErrInvalid, ErrUnfinished, ErrInUse, ErrDamaged, ErrConfig, ErrBusy, ErrStuck, ErrTimeout, ErrCanceled.
func (m *Manager) RestoreHeader(ctx context.Context, name string, p RestoreParams) (receipt HeaderReceipt, err error) {
	defer finishError(&err, "restore the header of", name)
	l, r, err := m.lockReady(ctx, name, "restore")
	if err != nil {
		return receipt, err
	}
	defer l.Release()
	if m.o.Backups == nil {
		return receipt, &Error{Code: CodeConfig, Err: errors.New("this process has no backups")}
	}
	if err := m.closed(r); err != nil {
		return receipt, err
	}
	c, path, err := m.door(ctx, r)
	if err != nil {
		return receipt, err
	}
	k, err := m.keyring(ctx)
	if err != nil {
		return receipt, err
	}
	if err := ctx.Err(); err != nil {
		return receipt, err
	}
	done, err := m.o.Backups.Restore(k, path, p.Image, headerbackup.RestoreOptions{
		Expect: r.expect(), KnownGeneration: r.generation(), AcceptOlder: p.AcceptOlder, DiscardPresent: p.DiscardPresent,
	})
	if err != nil {
		return receipt, err
	}
	m.o.Crash("restore.header")
	receipt = HeaderReceipt{Volume: name, UUID: r.UUID, Generation: done.Generation, Epoch: done.Epoch}
	if done.Older != nil {
		receipt.Older = done.Older.Error()
	}
	if done.Saved != nil {
		receipt.Saved = done.Saved.Name.String()
	}
	h, err := c.Header()
	if err != nil {
		return receipt, fmt.Errorf("read the restored header back: %w", err)
	}
	if _, err := m.checkHeader(h, r); err != nil && !(p.AcceptOlder && errors.Is(err, ErrOlderHeader)) {
		return receipt, err
	}
	if len(p.Identities) > 0 {
		receipt.Proven, receipt.NotProven = ProveRestored(c, p.Identities)
	}
	if err := m.catchUp(r, c); err != nil {
		return receipt, err
	}
	m.o.Crash("restore.recorded")
	if done.Older == nil {
		m.ensureBackup(k, path, name, h) // it has another epoch by now
	}
	return receipt, nil
}

// ProveRestored opens the recovery slot of a container by two implementations, and says which one that is, or why it does not open. A container without
// a recovery slot is none the worse for it.
func ProveRestored(c keyslot.Container, identities []recovery.Identity) (slots []int, doubt string) {
	slot, key, err := keyslot.UnlockRecovery(c, identities)
	if err != nil {
		return nil, err.Error()
	}
	defer key.Wipe()
	if err := keyslot.Prove(c, slot, key); err != nil {
		return nil, err.Error()
	}
	return []int{slot}, ""
}

// closed refuses a volume that is open, by us or by somebody else: the kernel has its key, and nobody could tell whether the restored header fits it.
func (m *Manager) closed(r *record) error {
	v, err := m.look()
	if err != nil {
		return err
	}
	d, err := own(v, r)
	if err != nil || d == nil {
		return err
	}
	return &Error{Code: CodeInUse, Err: errors.New("it is open: a header is restored only while the volume is closed; copy what matters out of it first, " +
		"since nobody can tell before whether the backup opens it")}
}

// BackUpHeader takes a backup of the header of a volume, which may be open, and destroys older ones. Errors are those of Rotate, apart from keys.
func (m *Manager) BackUpHeader(ctx context.Context, name string) (report *headerbackup.Report, err error) {
	defer finishError(&err, "back up the header of", name)
	l, r, err := m.lockReady(ctx, name, "backup")
	if err != nil {
		return nil, err
	}
	defer l.Release()
	c, path, err := m.door(ctx, r)
	if err != nil {
		return nil, err
	}
	h, err := c.Header()
	if err != nil {
		return nil, fmt.Errorf("read its LUKS header: %w", err)
	}
	if _, err := m.checkHeader(h, r); err != nil {
		return nil, err
	}
	k, err := m.keyring(ctx)
	if err != nil {
		return nil, err
	}
	if m.o.Backups == nil || len(k.Recipients) == 0 {
		return nil, &Error{Code: CodeNoRecovery, Err: errors.New("header backups are encrypted to the recovery recipients, and there are none")}
	}
	return m.o.Backups.Renew(k, path, r.UUID)
}

// Header reads the header of a volume as it is now, by its one door. It takes no lock and changes nothing.
func (m *Manager) Header(ctx context.Context, name string) (h *header.Header, err error) {
	defer finishError(&err, "read the header of", name)
	r, err := m.find(name)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, _, err := m.door(ctx, r)
	if err != nil {
		return nil, err
	}
	return c.Header()
}

// ensureBackup takes a backup of a header of which there is none: a creation or a change died before it, or somebody else has written the header. Older
// ones stay, since nobody said that this header is better. A failure fails nothing.
func (m *Manager) ensureBackup(k *keyslot.Keyring, path, name string, h *header.Header) {
	if m.o.Backups == nil {
		return
	}
	if err := m.o.Backups.Ensure(k, path, h); err != nil {
		m.log.Warn("no backup of the header could be taken", "volume", name, "err", err)
	}
}
