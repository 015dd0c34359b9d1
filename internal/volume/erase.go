// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/luks/header"
)

// What a crash leaves while a removed volume is erased, and who repairs it:
//
//	after this step                        a crash leaves                                        repaired by
//	erasure noted in the record            a tombstone that nothing brings back                  Erase, again
//	header overwritten and read back       the same; the header is not known any more            Erase, again: an image is overwritten once
//	                                                                                             more, a device is seen to hold no header
//	outcome noted in the record            a tombstone without its key                           Erase, again
//	header backups destroyed               the same, with fewer copies of its header             Erase, again
//	space released                         a record                                              Erase, again
//	receipt written                        a record and a receipt                                Erase, again: a second receipt
//	record removed                         an empty directory                                    Erase, again; Expired lists it
//	directory removed                      everything
//
// The agent repeats it until it is complete; a backup directory that cannot be reached keeps the record, and nothing else.

// How an erasure reached the medium.
const (
	OverwrittenInPlace = headerbackup.OverwrittenInPlace
	LogicalOnly        = headerbackup.LogicalOnly
)

// Erasure says what became of the header of a volume that was erased, and so of its volume key.
type Erasure struct {
	How     string   `json:"how"`               // OverwrittenInPlace, or LogicalOnly
	Bytes   int64    `json:"bytes"`             // overwritten with random bytes and read back, both copies of the header and all key slots among them
	Reasons []string `json:"reasons,omitempty"` // why it is LogicalOnly
}

// EraseReceipt says what an erasure did. It is kept under the state directory, and holds no secret.
type EraseReceipt struct {
	V       int                  `json:"v"`                 // version of this form
	Action  string               `json:"action"`            // ActionErase
	Volume  string               `json:"volume"`            // the name that it had
	UUID    string               `json:"uuid"`              // of the LUKS header
	Backing string               `json:"backing"`           // kind of the backing
	Removed time.Time            `json:"removed"`           // when it was removed
	Header  Erasure              `json:"header"`            // what became of it
	Backups *headerbackup.Report `json:"backups,omitempty"` // what became of the copies of its header
	// Incomplete says what is left to be done; Erase tries it again.
	Incomplete []string  `json:"incomplete,omitempty"`
	Advice     []string  `json:"advice,omitempty"` // for people
	Ended      time.Time `json:"ended"`            // when it was done
}

// ActionErase is the action of an EraseReceipt.
const ActionErase = "erase"

// Erase destroys a removed volume for good: its header is overwritten and read back, the backups of the header are destroyed, the space is released.
// It can be repeated after any failure. A receipt with Incomplete comes without an error. If it was removed at another time than seen, it was brought back
// meanwhile and removed again, and stays: ErrBusy. Errors: ErrNotFound, ErrInUse, ErrDamaged, ErrBusy, ErrStuck, ErrTimeout, ErrCanceled.
func (m *Manager) Erase(ctx context.Context, seen Removed) (receipt EraseReceipt, err error) {
	id := seen.UUID
	defer finishError(&err, ActionErase, id)
	l, err := m.lockRemoved(ctx, id, ActionErase)
	if err != nil {
		return receipt, err
	}
	defer l.Release()
	r, err := m.tombstone(id)
	dir := m.tombstoneDir(id)
	if errors.Is(err, fs.ErrNotExist) {
		return receipt, errors.Join(&Error{Code: CodeNotFound, Err: errors.New("there is no such removed volume")}, m.s.Files.Remove(dir))
	}
	if err != nil {
		return receipt, err
	}
	if !r.removal().Equal(seen.Removed) {
		return receipt, &Error{Code: CodeBusy, Err: errors.New("it was brought back and removed again meanwhile")}
	}
	if err := m.alsoAlive(id); err != nil {
		return receipt, err
	}
	b := m.backingIn(dir, r)
	resumed := r.Erasing != nil
	if users, err := b.Users(); err == nil && len(users) > 0 {
		return receipt, &Error{Code: CodeInUse, Err: &HeldError{Others: users}}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return receipt, err
	}
	var other string // why nothing is overwritten
	if r.Erased == nil && r.Spec.Backing == BackingDevice {
		if other, err = m.holdsHeader(ctx, b, r, resumed); err != nil {
			return receipt, err
		}
	}
	if !resumed {
		now := m.now().UTC()
		r.Erasing = &now
		if err := m.saveIn(dir, r); err != nil {
			return receipt, err
		}
	}
	m.o.Crash("erase.noted")
	if r.Erased == nil {
		if r.Erased, err = m.eraseHeader(ctx, b, r, other); err != nil {
			return receipt, err
		}
		m.o.Crash("erase.overwritten")
		if err := m.saveIn(dir, r); err != nil {
			return receipt, err
		}
	}
	m.o.Crash("erase.recorded")
	receipt = EraseReceipt{V: 1, Action: ActionErase, Volume: r.Name, UUID: r.UUID, Backing: r.Spec.Backing, Removed: r.removal(), Header: *r.Erased}
	if r.Erased.How == LogicalOnly {
		receipt.Advice = append(receipt.Advice, "a copy of the header may be left on the medium, and whoever has it needs one of the keys that opened the volume: "+
			"`voluks kek rotate` and `voluks recovery rekey` retire those, and for what must not be readable ever the medium is to be destroyed")
	}
	m.eraseBackups(&receipt)
	m.o.Crash("erase.backups")
	if err := b.Remove(ctx); err != nil {
		return receipt, err
	}
	m.o.Crash("erase.released")
	receipt.Ended = m.now().UTC()
	if len(receipt.Incomplete) > 0 {
		return receipt, nil
	}
	if err := m.keepEraseReceipt(&receipt); err != nil {
		return receipt, err
	}
	m.o.Crash("erase.receipt")
	return receipt, m.forget(dir)
}

// alsoAlive refuses if a volume has the UUID of a tombstone, as after a restore of the state directory from a backup: they may have one backing, and have
// the same header backups. A record that cannot be read may be that of such a volume.
func (m *Manager) alsoAlive(id string) error {
	names, _, err := m.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		r, err := m.load(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("it is not known whether %q is the same volume: %w", name, err)
		}
		if r.UUID == id {
			return &Error{Code: CodeInUse, Err: fmt.Errorf("the volume %q has the same UUID: this tombstone is an older copy of it; move its directory away", name)}
		}
	}
	return nil
}

// eraseHeader overwrites the header. An image in a tombstone is nobody else's; of a device other says why it is not this volume's any more.
func (m *Manager) eraseHeader(ctx context.Context, b Backing, r *record, other string) (*Erasure, error) {
	if other != "" {
		return &Erasure{How: LogicalOnly, Reasons: []string{other}}, nil
	}
	e, err := b.Erase(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return &Erasure{How: LogicalOnly, Reasons: []string{fmt.Sprintf("its %s is not there, so nothing was overwritten", r.Spec.Backing)}}, nil
	}
	if err != nil {
		return nil, err
	}
	done := &Erasure{How: OverwrittenInPlace, Bytes: e.Bytes, Reasons: e.Reasons}
	if len(e.Reasons) > 0 {
		done.How = LogicalOnly
	}
	return done, nil
}

// holdsHeader returns "" if the volume's header is on its device, and otherwise why nothing is overwritten there.
func (m *Manager) holdsHeader(ctx context.Context, b Backing, r *record, resumed bool) (why string, err error) {
	path, err := b.Door(ctx)
	var other *backing.OtherError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", &Error{Code: CodeDamaged, Err: fmt.Errorf("its device is not there, and still holds its header: %w", err)}
	case errors.As(err, &other):
		return "", err
	case err != nil:
		return "", err
	}
	h, err := m.s.Containers.At(path).Header()
	switch {
	case err == nil && h.UUID == r.UUID && h.Copies[0].Err == nil:
		return "", nil
	case err == nil && h.UUID == r.UUID:
		// Whoever gives a disk another use overwrites its start, and may leave the second copy. An erasure of ours overwrites the first copy last.
		return "the start of its device holds something else by now; it was not touched, though a copy of the header is left behind that", nil
	case err == nil:
		return fmt.Sprintf("its device holds another container by now (%s), which was not touched", h.UUID), nil
	case resumed && (errors.Is(err, header.ErrNotLUKS) || errors.Is(err, header.ErrDamaged)): // the key slots go first
		return "an interrupted erasure had overwritten the header already; it was not read back", nil
	case errors.Is(err, header.ErrNotLUKS):
		return "its device holds no LUKS header any more, and was not touched", nil
	}
	return "", err
}

// eraseBackups destroys all copies of the header.
func (m *Manager) eraseBackups(receipt *EraseReceipt) {
	if m.o.Backups == nil {
		return
	}
	report, err := m.o.Backups.Destroy(receipt.UUID)
	receipt.Backups = report
	if err != nil {
		receipt.Incomplete = append(receipt.Incomplete, "header backups: "+err.Error())
	}
	if report != nil {
		for _, left := range report.Unreached {
			receipt.Incomplete = append(receipt.Incomplete, fmt.Sprintf("a backup of its header could not be destroyed: %s in %s: %s", left.Name, left.Dir, left.Why))
		}
	}
}

// forget removes what is left of a tombstone: its record, and the directory if nothing else is in it.
func (m *Manager) forget(dir string) error {
	if err := m.s.Files.Remove(filepath.Join(dir, recordFile)); err != nil {
		return err
	}
	m.o.Crash("erase.forgotten")
	if err := m.s.Files.Remove(dir); err != nil {
		m.log.Warn("something else lies in the directory of an erased volume", "directory", dir, "err", err)
	}
	return nil
}

func (m *Manager) keepEraseReceipt(r *EraseReceipt) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return m.keepReceiptText(r.UUID, r.Action, r.Ended, b)
}
