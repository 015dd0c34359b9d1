// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// Backups keep copies of headers. They are renewed after each change of a header, since an old header and an old key reopen a volume.
type Backups interface {
	// Renew takes a backup of the header on the device and destroys all older ones. With an error and a report the backup was taken.
	Renew(k *keyslot.Keyring, device, uuid string) (*headerbackup.Report, error)
	// Ensure takes a backup if there is none of the header as it is; older ones stay.
	Ensure(k *keyslot.Keyring, device string, h *header.Header) error
	// Restore writes the header of a backup to the device; see headerbackup.Store.Restore.
	Restore(k *keyslot.Keyring, device string, image *headerbackup.Image, o headerbackup.RestoreOptions) (*headerbackup.Restored, error)
	// Destroy destroys all backups of a volume that is erased. What cannot be reached is in the report.
	Destroy(uuid string) (*headerbackup.Report, error)
}

// HeaderBackups are the real Backups.
type HeaderBackups struct {
	Dir    string                 // State/backups
	Second func() (string, error) // a second directory, or "", by the configuration of that moment; nil: none
	Now    func() time.Time       // nil: time.Now
}

// Store is what backups are taken and restored with.
func (b HeaderBackups) Store(k *keyslot.Keyring) (*headerbackup.Store, error) {
	o := headerbackup.Options{
		Dir: b.Dir, Recipients: k.Recipients, Now: b.Now, Crash: k.Crash,
		Generation: func(h *header.Header) (uint64, error) {
			s, err := keyslot.State(h)
			return s.Generation(), err
		},
	}
	if b.Second != nil {
		var err error
		if o.Second, err = b.Second(); err != nil {
			return nil, err
		}
	}
	return headerbackup.New(o), nil
}

// Ensure implements Backups. Without recipients there is nothing to do.
func (b HeaderBackups) Ensure(k *keyslot.Keyring, device string, h *header.Header) error {
	if len(k.Recipients) == 0 {
		return nil
	}
	s, err := b.Store(k)
	if err != nil {
		return err
	}
	there, err := s.List(h.UUID)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(there, func(b headerbackup.Backup) bool { return b.Name.Epoch == h.Epoch }) {
		return nil
	}
	_, err = s.Take(headerbackup.Of(luks.At(device)), h.UUID)
	return err
}

// Restore implements Backups.
func (b HeaderBackups) Restore(k *keyslot.Keyring, device string, image *headerbackup.Image, o headerbackup.RestoreOptions) (*headerbackup.Restored, error) {
	s, err := b.Store(k)
	if err != nil {
		return nil, err
	}
	return s.Restore(headerbackup.Of(luks.At(device)), image, o)
}

// Renew implements Backups.
func (b HeaderBackups) Renew(k *keyslot.Keyring, device, uuid string) (*headerbackup.Report, error) {
	s, err := b.Store(k)
	if err != nil {
		return nil, err
	}
	if len(k.Recipients) == 0 {
		return s.Retire(uuid, "") // what is there from better days
	}
	taken, err := s.Take(headerbackup.Of(luks.At(device)), uuid)
	var second *headerbackup.SecondError
	if err != nil && !errors.As(err, &second) {
		return nil, err
	}
	report, err2 := s.Retire(uuid, taken.Name.String())
	return report, errors.Join(err, err2)
}

// Destroy implements Backups.
func (b HeaderBackups) Destroy(uuid string) (*headerbackup.Report, error) {
	s, err := b.Store(&keyslot.Keyring{})
	if err != nil {
		return nil, err
	}
	return s.Retire(uuid, "")
}

// renewBackups takes a backup of a changed header and destroys the older ones. What could not be done is in the receipt: the keys are changed.
func (m *Manager) renewBackups(k *keyslot.Keyring, path string, r *KeyReceipt) {
	if m.o.Backups == nil {
		return
	}
	report, err := m.o.Backups.Renew(k, path, r.UUID)
	r.Backups = report
	if err != nil {
		r.Warnings = append(r.Warnings, "header backup: "+err.Error())
	}
	if report != nil && !report.Complete() {
		for _, gone := range report.Unreached {
			r.Warnings = append(r.Warnings, fmt.Sprintf("an older header backup could not be destroyed: %s in %s: %s", gone.Name, gone.Dir, gone.Why))
		}
	}
}

// keptReceipts is how many are kept for each volume.
const keptReceipts = 64

// keepReceipt writes the receipt under the state directory, and drops the oldest ones.
func (m *Manager) keepReceipt(r *KeyReceipt) error {
	b, err := json.MarshalIndent(r, "", "\t")
	if err != nil {
		return err
	}
	return m.keepReceiptText(r.UUID, r.Action, r.Ended, b)
}

func (m *Manager) keepReceiptText(uuid, action string, ended time.Time, text []byte) error {
	root := filepath.Join(m.o.Paths.State, "receipts")
	dir := filepath.Join(root, uuid)
	for _, d := range []string{root, dir} {
		if err := m.s.Files.Mkdir(d, 0o700); err != nil {
			return err
		}
	}
	name := fmt.Sprintf("%s-%s.json", ended.Format("20060102T150405.000000000Z"), action)
	if err := m.s.Files.Write(filepath.Join(dir, name), append(text, '\n')); err != nil {
		return err
	}
	all, err := m.s.Files.List(dir)
	if err != nil {
		return err
	}
	for i := 0; i < len(all)-keptReceipts; i++ {
		if err := m.s.Files.Remove(filepath.Join(dir, all[i])); err != nil {
			return err
		}
	}
	return nil
}
