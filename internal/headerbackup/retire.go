// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/voluks/voluks/internal/sys"
)

// Report says what became of the backups that were to be destroyed. It is part of receipts.
type Report struct {
	UUID      string `json:"uuid"`                // of the volume
	Kept      string `json:"kept,omitempty"`      // name of the backup that stays
	Destroyed []Gone `json:"destroyed,omitempty"` // in this run
	Unreached []Gone `json:"unreached,omitempty"` // these may still be there, and reopen the volume with an old key and the identity
}

// Complete says that no copy is left but the one that was kept.
func (r *Report) Complete() bool { return len(r.Unreached) == 0 }

// Retire destroys every backup of a volume except keep, after it has seen that keep is there and undamaged; keep "" destroys all, for a volume that is erased.
// Copies that cannot be reached now are in the report and remembered, and the next Retire tries again. The error is about what kept it from working at
// all; ErrNone or ErrDamaged (of keep) mean that nothing was destroyed.
func (s *Store) Retire(uuid, keep string) (*Report, error) {
	r, err := s.retire(uuid, keep)
	if err != nil {
		return r, fmt.Errorf("destroy the old header backups of %s: %w", uuid, err)
	}
	return r, nil
}

func (s *Store) retire(uuid, keep string) (*Report, error) {
	dir, err := folder(s.o.Dir, uuid)
	if err != nil {
		return nil, err
	}
	if keep != "" {
		if err := verify(filepath.Join(dir, keep)); err != nil {
			return nil, err
		}
	}
	l, err := readLedger(dir)
	if err != nil {
		return nil, err
	}
	r := &Report{UUID: uuid, Kept: keep}
	if err := s.retireHere(dir, keep, r); err != nil {
		return r, err
	}
	if err := s.findForgotten(l, uuid); err != nil {
		return r, err
	}
	left := s.retireThere(l.Copies, uuid, keep, r)
	if keep == "" && r.Complete() {
		return r, s.forget(dir)
	}
	if len(r.Destroyed) == 0 && len(left) == len(l.Copies) {
		return r, nil
	}
	l.Copies, l.Destroyed = left, append(l.Destroyed, r.Destroyed...)
	if err := l.write(dir); err != nil {
		return r, err
	}
	s.o.Crash("backup.recorded")
	return r, nil
}

// retireHere empties State.
func (s *Store) retireHere(dir, keep string, r *Report) error {
	backups, leftovers, err := files(dir)
	if err != nil {
		return err
	}
	for _, name := range append(backups, leftovers...) {
		if name != keep {
			s.retireOne(s.o.Dir, filepath.Join(dir, name), name, r)
		}
	}
	return nil
}

func (s *Store) retireOne(root, path, name string, r *Report) {
	gone := Gone{Name: name, Dir: root, When: s.o.Now().UTC()}
	how, err := destroy(path)
	if err != nil {
		gone.Why = err.Error()
		r.Unreached = append(r.Unreached, gone)
		return
	}
	gone.How = how
	r.Destroyed = append(r.Destroyed, gone)
	s.o.Crash("backup.destroyed")
}

// findForgotten adds the copies in the second directory that the ledger does not know: it may have been lost with State.
func (s *Store) findForgotten(l *ledger, uuid string) error {
	if s.o.Second == "" {
		return nil
	}
	before, err := s.remembered()
	if err != nil {
		return err
	}
	if before.Dir != s.o.Second || reachable(s.o.Second, before.ID) != nil {
		return nil
	}
	dir, err := folder(s.o.Second, uuid)
	if err != nil {
		return err
	}
	// An unreadable directory is found again, and reported, where the copies are destroyed.
	backups, _, _ := files(dir)
	for _, name := range backups {
		l.add(secondCopy{Name: name, Dir: s.o.Second, ID: before.ID})
	}
	return nil
}

// retireThere empties second directories, and returns the copies that are or may be left.
func (s *Store) retireThere(copies []secondCopy, uuid, keep string, r *Report) []secondCopy {
	var left []secondCopy
	for _, c := range copies {
		if c.Name == keep {
			left = append(left, c)
			continue
		}
		dir, err := folder(c.Dir, uuid)
		if err == nil {
			err = reachable(c.Dir, c.ID)
		}
		if err == nil {
			err = sweep(dir)
		}
		if err != nil {
			r.Unreached = append(r.Unreached, Gone{Name: c.Name, Dir: c.Dir, When: s.o.Now().UTC(), Why: err.Error()})
			left = append(left, c)
			continue
		}
		before := len(r.Unreached)
		if s.retireOne(c.Dir, filepath.Join(dir, c.Name), c.Name, r); len(r.Unreached) > before {
			left = append(left, c)
		}
		if keep == "" {
			_ = os.Remove(dir) // if it is empty; it is nothing but tidiness
		}
	}
	return left
}

// forget removes the directories of a volume of which nothing is left.
func (s *Store) forget(dir string) error {
	if err := os.Remove(filepath.Join(dir, ledgerFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	// Something that is not ours keeps the directory; no matter.
	if err := os.Remove(dir); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		return sys.SyncDir(dir)
	}
	return sys.SyncDir(filepath.Dir(dir))
}

// Destroyed are the last backups of a volume that were destroyed, the newest last: where they were, when, and what destroying meant there.
func (s *Store) Destroyed(uuid string) ([]Gone, error) {
	dir, err := folder(s.o.Dir, uuid)
	if err != nil {
		return nil, err
	}
	l, err := readLedger(dir)
	if err != nil {
		return nil, err
	}
	return l.Destroyed, nil
}

// Unreached lists the copies of a volume's backups that an earlier Retire could not destroy, apart from keep. For the status.
func (s *Store) Unreached(uuid, keep string) ([]string, error) {
	dir, err := folder(s.o.Dir, uuid)
	if err != nil {
		return nil, err
	}
	l, err := readLedger(dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, c := range l.Copies {
		if c.Name != keep {
			paths = append(paths, filepath.Join(c.Dir, uuid, c.Name))
		}
	}
	slices.Sort(paths)
	return paths, nil
}
