// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks/header"
)

// KeyUse says which keys of key providers a volume needs now, and by which its slot keys were ever wrapped.
type KeyUse struct {
	Volume  string    `json:"volume"`            // its name
	UUID    string    `json:"uuid"`              // of the LUKS header
	Removed bool      `json:"removed,omitempty"` // a tombstone: it needs its key if it is to be dug up
	Adopted bool      `json:"adopted,omitempty"` // no volume, but a device of the host; KeyUses does not know these
	Keys    []kek.Ref `json:"keys"`              // in the version that has wrapped
	History []kek.Ref `json:"history"`           // that ever wrapped a slot key of it
	Former  []kek.Ref `json:"former,omitempty"`  // by which earlier slot keys were wrapped
	// Recipients are fingerprints of those whose identity opens a recovery slot of it.
	Recipients []string `json:"recipients"`
	Err        error    `json:"-"`               // why it is not known
	Error      string   `json:"error,omitempty"` // Err as text
}

// KeyUses reads the headers of all volumes, removed ones included. It asks no provider, takes no lock and changes nothing. A volume that cannot be
// read has an Err, and keeps no other.
func (m *Manager) KeyUses(ctx context.Context) (uses []KeyUse, err error) {
	defer finishError(&err, "list", "")
	names, _, err := m.names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		r, err := m.load(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		use := KeyUse{Volume: name}
		if err == nil && r.Spec.Ephemeral {
			continue // no key of the node opens it
		}
		if err == nil && r.State != StateReady {
			continue // it holds no data yet, and gets its key when it is finished
		}
		if err == nil {
			use.UUID = r.UUID
			err = m.keyUse(ctx, m.backing(r), r, &use)
		}
		uses = append(uses, use.with(err))
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	removed, err := m.s.Files.List(m.o.Paths.RemovedDir())
	if err != nil {
		return nil, err
	}
	for _, id := range removed {
		dir := filepath.Join(m.o.Paths.RemovedDir(), id)
		use := KeyUse{UUID: id, Removed: true}
		b, err := m.s.Files.Read(filepath.Join(dir, recordFile), maxRecord)
		var r *record
		if err == nil {
			r, err = decodeRecord(b)
		}
		if err == nil {
			use.Volume = r.Name
			err = m.keyUse(ctx, m.backingIn(dir, r), r, &use)
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, header.ErrNotLUKS) {
			continue // nothing of it is left
		}
		uses = append(uses, use.with(err))
	}
	return uses, nil
}

func (u KeyUse) with(err error) KeyUse {
	if err != nil {
		u.Err, u.Error = err, err.Error()
	}
	return u
}

func (m *Manager) keyUse(ctx context.Context, b Backing, r *record, use *KeyUse) error {
	door, err := b.Door(ctx)
	if err != nil {
		return err
	}
	h, err := m.s.Containers.At(door).Header()
	if err != nil {
		return err
	}
	s, err := m.checkHeader(h, r)
	if err == nil {
		_, err = keyslot.State(h) // all of it must be understood
	}
	use.Keys = s.Keys()
	for i, ref := range use.Keys {
		for _, slot := range s.Slots {
			if slot.KEK.SameKey(ref) {
				use.Keys[i].Version = slot.KEK.Version
			}
		}
	}
	for _, slot := range s.Slots {
		use.History = append(use.History, slot.History...)
		use.Former = append(use.Former, slot.Former...)
		use.Recipients = append(use.Recipients, slot.Recipients...)
	}
	return err
}
