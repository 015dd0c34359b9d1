// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"time"
)

// maxNote bounds what is read of a note.
const maxNote = 64 << 10

// lockedNote is why a closed volume could not be opened when that was last tried. It lies under the runtime directory, since it says nothing about
// the next boot. Nothing depends on it but what the status shows.
type lockedNote struct {
	Reason string    `json:"reason"`
	Next   time.Time `json:"next,omitzero"` // when somebody tries again; zero: nobody does by himself
}

func (m *Manager) lockedFile(r *record) string {
	return filepath.Join(m.o.Paths.LockedDir(), r.UUID+".json")
}

// locked reads the note of a volume; the zero value if there is none, or none that can be read.
func (m *Manager) locked(r *record) (n lockedNote) {
	b, err := m.s.Files.Read(m.lockedFile(r), maxNote)
	if err == nil {
		err = json.Unmarshal(b, &n)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.log.Warn("why a volume is locked cannot be read", "volume", r.Name, "err", err)
	}
	return n
}

// noteLocked writes down what came of an attempt to open the volume; nil takes the note away. Failing to write it fails nothing.
func (m *Manager) noteLocked(r *record, opened error, next time.Time) {
	have, want := m.locked(r), lockedNote{}
	if opened != nil {
		switch classify(opened) {
		case CodeLocked, CodeConfig:
			want = lockedNote{Reason: opened.Error(), Next: next.UTC()}
		}
	}
	if have.Reason == want.Reason && have.Next.Equal(want.Next) {
		return
	}
	if err := m.writeLocked(r, want); err != nil {
		m.log.Warn("why a volume is locked cannot be written down", "volume", r.Name, "err", err)
	}
}

func (m *Manager) writeLocked(r *record, n lockedNote) error {
	if n.Reason == "" {
		return m.s.Files.Remove(m.lockedFile(r))
	}
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := m.s.Files.Mkdir(m.o.Paths.LockedDir(), 0o700); err != nil {
		return err
	}
	return m.s.Files.Write(m.lockedFile(r), b)
}

// NoteKey writes down what the key provider has answered for a volume, for the status to show: nil is that the key can be had, an error that is
// ErrLocked or ErrConfig why not, and any other error says nothing about the key and changes nothing. Next is when it is asked again, zero for never.
// It takes no lock: whoever comes last is right.
func (m *Manager) NoteKey(name string, answer error, next time.Time) (err error) {
	defer finishError(&err, "inspect", name)
	r, err := m.find(name)
	if err != nil {
		return err
	}
	if code := CodeOf(answer); answer == nil || code == CodeLocked || code == CodeConfig {
		m.noteLocked(r, answer, next)
	}
	return nil
}
