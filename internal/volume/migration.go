// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Migrating is a migration into a volume that has not ended: what is in it is a part of the data, or none.
type Migrating struct {
	Source string    `json:"source"` // as whoever migrates calls it
	Since  time.Time `json:"since"`  // when the first pass began
}

// MigratingError is why a volume is not given to anybody: a database that starts on half of its data makes another half.
type MigratingError struct {
	Volume    string // its name
	Migrating        // what is not done
}

// Error implements error.
func (e *MigratingError) Error() string {
	return fmt.Sprintf("a migration from %s into it has not ended, so its data is not whole: finish it with `voluks volume migrate`, or remove the volume with "+
		"`voluks volume rm %s`", e.Source, e.Volume)
}

// A migration has a volume for itself, from before it looks at what is there until it is done. What a crash leaves, and who repairs it:
//
//	after this step    a crash leaves                          repaired by
//	holder recorded    a holder whose process is gone          the next MountForMigration, Mount, or the sweeps of Settle
//	record: migrating  data that is not whole, and a record    the next migration goes on; Mount refuses it to everybody else
//	                   that says so
//	record: ended      whole data                              -

// MountForMigration is Mount for one who must be alone: whoever has the volume is told of in the error, and nobody else gets it until Unmount. It has been
// closed in between, so nothing of it is open from before. One who migrates may do so again.
//
// Errors: those of Mount; ErrInUse around a *HeldError.
func (m *Manager) MountForMigration(ctx context.Context, name string, h Holder) (path string, err error) {
	defer finishError(&err, "migrate", name)
	if err := checkHolder(h); err != nil || h.Kind != HolderMigrate {
		return "", &Error{Code: CodeInvalid, Err: errors.Join(err, errors.New("a migration needs a holder of its own kind"))}
	}
	l, r, err := m.lockReady(ctx, name, "migrate")
	if err != nil {
		return "", err
	}
	defer l.Release()
	held, err := m.holders(name)
	if err != nil {
		return "", err
	}
	held = slices.DeleteFunc(held, func(other Holder) bool {
		return other.Kind == HolderMigrate && (m.ended(other) || other.PID == h.PID && other.Start == h.Start)
	})
	if len(held) > 0 {
		return "", &Error{Code: CodeInUse, Err: &HeldError{Holders: held}}
	}
	if err := m.dropHolder(name, h.ID); err != nil {
		return "", err
	}
	if err := m.clear(ctx, r); err != nil {
		var used *HeldError
		if errors.As(err, &used) {
			err = &Error{Code: CodeInUse, Err: &HeldError{Others: used.Others}}
		}
		return "", err
	}
	return m.mountFor(ctx, l, r, h)
}

// BeginMigration notes, durably and before anything is written, that the data of the volume is not whole. It is called after MountForMigration.
func (m *Manager) BeginMigration(ctx context.Context, name, source string) error {
	return m.setMigrating(ctx, name, &Migrating{Source: source, Since: m.now().UTC()})
}

// EndMigration notes that the data of the volume is whole: all of it is on the disk and verified.
func (m *Manager) EndMigration(ctx context.Context, name string) error {
	return m.setMigrating(ctx, name, nil)
}

func (m *Manager) setMigrating(ctx context.Context, name string, to *Migrating) (err error) {
	defer finishError(&err, "migrate", name)
	l, r, err := m.lockReady(ctx, name, "migrate")
	if err != nil {
		return err
	}
	defer l.Release()
	held, err := m.holders(name)
	if err == nil && !slices.ContainsFunc(held, func(h Holder) bool { return h.Kind == HolderMigrate }) {
		err = errors.New("nobody migrates into it")
	}
	if err != nil {
		return err
	}
	if to != nil && r.Migrating != nil {
		to.Since = r.Migrating.Since
	}
	r.Migrating = to
	return m.save(r)
}

// mayShare refuses a volume whose data is not whole, and one that a migration has for itself. Such a holder whose process is gone, and that has written
// nothing, is forgotten.
func (m *Manager) mayShare(r *record, h Holder) error {
	if r.Migrating != nil {
		return &Error{Code: CodeUnfinished, Err: &MigratingError{r.Name, *r.Migrating}}
	}
	if h.Kind == HolderMigrate {
		return &Error{Code: CodeInvalid, Err: errors.New("a migration does not share a volume")}
	}
	held, err := m.holders(r.Name)
	if err != nil {
		return err
	}
	for _, other := range held {
		switch {
		case other.Kind != HolderMigrate:
		case m.ended(other):
			if err := m.dropHolder(r.Name, other.ID); err != nil {
				return err
			}
		default:
			return &Error{Code: CodeInUse, Err: &HeldError{Holders: []Holder{other}}}
		}
	}
	return nil
}

// KeepReceipt keeps what was done to the data of a volume, as JSON, beside the receipts of its keys.
func (m *Manager) KeepReceipt(uuid, action string, ended time.Time, text []byte) error {
	return m.keepReceiptText(uuid, action, ended, text)
}
