// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/crashpoint"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/keyslot"
)

// Options are what a Manager needs. Paths and Storage are required; Defaults for Create; Keyring for Create and Mount.
type Options struct {
	Paths    config.Paths // of the node
	Defaults Defaults     // for options that a creation leaves out
	Storage  Storage      // that volumes are kept on
	// Keyring gives the keys of the node. It is asked only by operations that need them, each time anew.
	Keyring func(context.Context) (*keyslot.Keyring, error)
	// Identities are recovery identities that somebody lends to this process. Mount opens volumes with them alone; what changes keys uses them where the
	// node's own keys do not open the volume.
	Identities []recovery.Identity
	Backups    Backups // of headers; nil: none are kept
	// DrillEvery is how often the recovery identity shall be tried, as the configuration has it now; nil or 0: it is nobody's business.
	DrillEvery func() time.Duration
	Now        func() time.Time // nil: time.Now
	Log        *slog.Logger     // nil: discarded
	// Patience is how long a close is repeated while the kernel says busy: the end of a container's mount namespace comes a moment after the end of
	// the container. 0: 2 s.
	Patience time.Duration
	// SweepGap is the least time between the two sweeps that make a Docker holder stale. 0: 10 s.
	SweepGap time.Duration
	// Crash is called at each named point between two writes. nil: crashpoint.Hit.
	Crash func(point string)
}

// Manager does what is done to volumes. It keeps nothing in memory between calls, so any number of processes can each have one over the same
// paths; a lock per volume keeps them apart. Its methods may be called concurrently. Every error is an *Error.
//
// Create, Mount, Unmount, Remove, Settle and Reconcile can block in the kernel for as long as a device below does, and handle keys: they belong
// into a process that ends afterwards. List, Inspect, Path and Unsettled do no device I/O and see no key.
type Manager struct {
	o   Options
	s   Storage
	log *slog.Logger
	now func() time.Time
}

// New makes a Manager. It touches nothing.
func New(o Options) *Manager {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Patience == 0 {
		o.Patience = 2 * time.Second
	}
	if o.SweepGap == 0 {
		o.SweepGap = 10 * time.Second
	}
	if o.Crash == nil {
		o.Crash = crashpoint.Hit
	}
	return &Manager{o: o, s: o.Storage, log: o.Log, now: o.Now}
}

// directories makes the directories that everything else is made in.
func (m *Manager) directories() error {
	// The mountpoints must be reachable for users of the host's services, the rest for nobody.
	if err := os.MkdirAll(m.o.Paths.State, 0o711); err != nil {
		return err
	}
	if err := os.MkdirAll(m.o.Paths.Run, 0o755); err != nil {
		return err
	}
	for _, d := range []struct {
		path string
		mode fs.FileMode
	}{
		{m.o.Paths.VolumesDir(), 0o700}, {m.o.Paths.RemovedDir(), 0o700}, {m.o.Paths.MountsDir(), 0o711},
	} {
		if err := m.s.Files.Mkdir(d.path, d.mode); err != nil {
			return err
		}
	}
	return nil
}

// opener is what volumes are opened with: the recovery identity alone, if somebody lends it, and else the node's keys.
func (m *Manager) opener(ctx context.Context) (*keyslot.Keyring, error) {
	if len(m.o.Identities) > 0 {
		return &keyslot.Keyring{Identities: m.o.Identities}, nil
	}
	return m.keyring(ctx)
}

// keyring asks for the node's keys.
func (m *Manager) keyring(ctx context.Context) (*keyslot.Keyring, error) {
	if m.o.Keyring == nil {
		return nil, &Error{Code: CodeConfig, Err: errors.New("this process has no keys")}
	}
	k, err := m.o.Keyring(ctx)
	if err != nil {
		return nil, err
	}
	own := *k
	own.Crash, own.Identities = m.o.Crash, m.o.Identities
	return &own, nil
}
