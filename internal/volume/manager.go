// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"log/slog"
	"time"

	"github.com/voluks/voluks/internal/config"
)

// Options are what a Manager needs. Paths and Storage are required, and Keyring for Create and Mount.
type Options struct {
	Paths    config.Paths
	Defaults Defaults
	Now      func() time.Time // nil: time.Now
	Log      *slog.Logger     // nil: discarded
}

// Manager does what is done to volumes. It keeps nothing in memory between calls, so any number of processes can each have one over the same
// paths; a lock per volume keeps them apart. Its methods may be called concurrently. Every error is an *Error.
//
// Create, Mount, Unmount, Remove, Settle and Reconcile can block in the kernel for as long as a device below does, and handle keys: they belong
// into a process that ends afterwards. List, Inspect, Path and Unsettled do no device I/O and see no key.
type Manager struct {
	o Options
}

// New makes a Manager. It touches nothing.
func New(o Options) *Manager {
	return &Manager{o: o}
}

// Create makes the volume that s describes, or finishes one whose creation was interrupted. The bool tells whether it was made now: a volume that
// has the name and the options already is success and false; one with other options is ErrExists around a *DiffError. Whatever fails before the
// volume is complete leaves nothing behind; a crash leaves what the next Create, Settle or Remove can deal with. It never formats anything that
// was ever complete.
//
// Errors: ErrInvalid, ErrExists, ErrNoRecovery, ErrLocked (the key provider cannot wrap), ErrConfig, ErrNoSpace, ErrNoTool, ErrNoDM, ErrBusy,
// ErrStuck, ErrDamaged, ErrTimeout, ErrCanceled.
func (m *Manager) Create(ctx context.Context, s Spec) (Info, bool, error) { panic("not yet") }

// Mount opens the volume if need be, records the holder and returns the directory for it, proven to lie on the volume's own mapping. It may be
// repeated with the same holder. It never formats. On an error the holder is not recorded and what was opened is closed again.
//
// Errors: ErrNotFound, ErrUnfinished, ErrLocked, ErrConfig, ErrDamaged, ErrPlaintext, ErrInUse (the image is in other hands), ErrNoDM, ErrBusy,
// ErrStuck, ErrTimeout, ErrCanceled.
func (m *Manager) Mount(ctx context.Context, name string, h Holder) (string, error) { panic("not yet") }

// Unmount takes the holder away and, if it was the last, closes the volume. An unknown holder or a volume that is not mounted is success. If
// somebody else still uses the file system the holder is gone all the same, and the error is ErrBusy around a *HeldError with Closing set: Settle
// closes the volume later.
//
// Errors: ErrNotFound, ErrBusy, ErrStuck, ErrTimeout, ErrCanceled.
func (m *Manager) Unmount(ctx context.Context, name, holderID string) error { panic("not yet") }

// Remove turns a volume that nobody uses into a tombstone; its name is free at once, its data stays until the configured time is over.
//
// Errors: ErrNotFound, ErrInUse around a *HeldError, ErrBusy, ErrStuck.
func (m *Manager) Remove(ctx context.Context, name string) error { panic("not yet") }

// List describes all volumes, by name. A damaged one is listed as such and hides no other.
func (m *Manager) List(ctx context.Context) ([]Info, error) { panic("not yet") }

// Inspect describes one volume. Errors: ErrNotFound.
func (m *Manager) Inspect(ctx context.Context, name string) (Info, error) { panic("not yet") }

// Path returns the directory for holders of a mounted volume, proven now. Errors: ErrNotFound, ErrNotMounted, ErrPlaintext.
func (m *Manager) Path(ctx context.Context, name string) (string, error) { panic("not yet") }

// Settle repairs one volume after a crash: adopts what is open and held, closes what is open and not held, finishes a record whose header says
// that it was complete, forgets stale holders. It never formats and needs no key. Errors: ErrNotFound, ErrBusy, ErrStuck, ErrDamaged.
func (m *Manager) Settle(ctx context.Context, name string) error { panic("not yet") }

// Unsettled names the volumes that Settle has something to do for.
func (m *Manager) Unsettled(ctx context.Context) ([]string, error) { panic("not yet") }

// Reconcile settles every volume. One that fails does not keep the others; the error joins what went wrong with each.
func (m *Manager) Reconcile(ctx context.Context) error { panic("not yet") }
