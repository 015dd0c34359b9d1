// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	maxHolderID   = 4096
	maxHolderFile = 32 << 10
	holderSuffix  = ".json"
)

// holderNote is one holder's file. Boot tells a holder of this boot from one that an unusual runtime directory has carried over a reboot, which
// holds nothing any more (F21).
type holderNote struct {
	Holder
	Boot string `json:"boot"`
	// Doubt is when a sweep first found the holder stale; zero if it was seen alive since.
	Doubt time.Time `json:"doubt,omitzero"`
}

// checkHolder refuses a holder that cannot be recorded.
func checkHolder(h Holder) error {
	switch {
	case h.ID == "":
		return errors.New("a holder must have an id")
	case len(h.ID) > maxHolderID:
		return fmt.Errorf("the holder's id has %d bytes, at most %d are possible", len(h.ID), maxHolderID)
	}
	switch h.Kind {
	case HolderDocker, HolderPodman, HolderCLI, HolderSystemd, HolderMigrate:
		return nil
	}
	return fmt.Errorf("unknown kind of holder %q", h.Kind)
}

// holderFile names the file of a holder: IDs may contain anything, so their digest stands for them.
func (m *Manager) holderFile(name, id string) string {
	sum := sha256.Sum256([]byte(id))
	return filepath.Join(m.o.Paths.Holders(name), hex.EncodeToString(sum[:])+holderSuffix)
}

// addHolder records a holder, or that a known one asked again. It is a set: the same id counts once (F22).
func (m *Manager) addHolder(name string, h Holder) error {
	if h.Since.IsZero() {
		h.Since = m.now().UTC()
	}
	boot, err := m.s.Kernel.BootID()
	if err != nil {
		return err
	}
	for _, dir := range []string{m.o.Paths.HoldersDir(), m.o.Paths.Holders(name)} {
		if err := m.s.Files.Mkdir(dir, 0o700); err != nil {
			return fmt.Errorf("record holder: %w", err)
		}
	}
	return m.writeHolder(name, holderNote{Holder: h, Boot: boot})
}

func (m *Manager) writeHolder(name string, n holderNote) error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := m.s.Files.Write(m.holderFile(name, n.ID), b); err != nil {
		return fmt.Errorf("record holder: %w", err)
	}
	return nil
}

// dropHolder forgets a holder; one that is not there is success.
func (m *Manager) dropHolder(name, id string) error {
	if err := m.s.Files.Remove(m.holderFile(name, id)); err != nil {
		return fmt.Errorf("forget holder: %w", err)
	}
	return nil
}

// holderNotes returns the holders of this boot, oldest first. A file that cannot be read counts as a holder that nothing is known of: whoever it
// was, the volume is not closed under it.
func (m *Manager) holderNotes(name string) ([]holderNote, error) {
	dir := m.o.Paths.Holders(name)
	files, err := m.s.Files.List(dir)
	if err != nil || len(files) == 0 {
		return nil, err
	}
	boot, err := m.s.Kernel.BootID()
	if err != nil {
		return nil, err
	}
	var notes []holderNote
	for _, file := range files {
		if !strings.HasSuffix(file, holderSuffix) {
			continue // a temporary file of an interrupted write
		}
		b, err := m.s.Files.Read(filepath.Join(dir, file), maxHolderFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var n holderNote
		if err == nil {
			err = json.Unmarshal(b, &n)
		}
		if err != nil || m.holderFile(name, n.ID) != filepath.Join(dir, file) {
			m.log.Warn("unreadable holder counts as alive", "volume", name, "file", file, "err", err)
			n = holderNote{Holder: Holder{ID: "unreadable " + file}, Boot: boot}
		}
		if n.Boot == boot {
			notes = append(notes, n)
		}
	}
	slices.SortFunc(notes, func(a, b holderNote) int {
		if c := a.Since.Compare(b.Since); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return notes, nil
}

// holders is holderNotes without what only sweeps need; never nil.
func (m *Manager) holders(name string) ([]Holder, error) {
	notes, err := m.holderNotes(name)
	all := make([]Holder, 0, len(notes))
	for _, n := range notes {
		all = append(all, n.Holder)
	}
	return all, err
}

// Holds tells whether an id is recorded as a holder of a volume; false also when that cannot be found out.
func (m *Manager) Holds(name, id string) bool {
	notes, err := m.holderNotes(name)
	return CheckName(name) == nil && err == nil && slices.ContainsFunc(notes, func(n holderNote) bool { return n.ID == id })
}
