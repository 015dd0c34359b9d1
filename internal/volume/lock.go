// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/voluks/voluks/internal/sys"
)

const (
	lockPoll     = 20 * time.Millisecond
	lateTime     = 500 * time.Millisecond
	lockDeadline = 10 * time.Minute // of an operation whose caller set none
	undoTime     = 20 * time.Second // of an undo, on top of the deadline
)

// lockNote is what the holder of a lock writes into it, so that any process can tell who holds it and whether that is still as it should be.
type lockNote struct {
	PID      int       `json:"pid"`
	Op       string    `json:"op"`
	Since    time.Time `json:"since"`
	Deadline time.Time `json:"deadline"` // the undo of a failure included
}

// A lock is a flock on a file that is never unlinked. It belongs to the open file description, so children that get File hold it too, and it
// lasts until the last of them is gone: a mkfs that outlives its worker keeps the volume locked.
type lock struct{ File *os.File }

// lockVolume waits for the lock of a volume as long as ctx lasts. It gives up, with CodeStuck, when whoever has it stays past its deadline for lateTime:
// the note of one that was killed stands there until the next owner has written its own, and a status may hold the lock at that moment.
func (m *Manager) lockVolume(ctx context.Context, name, op string) (*lock, error) {
	return m.lock(ctx, m.o.Paths.Lock(name), op)
}

func (m *Manager) lock(ctx context.Context, path, op string) (*lock, error) {
	var late lockNote // the note that was last seen overdue, and when that was first
	var since time.Time
	for {
		l, err := m.tryLock(ctx, path, op)
		if !errors.Is(err, sys.ErrLocked) {
			return l, err
		}
		note, _ := readNote(path)
		if !m.overdue(note) || note != late {
			late, since = note, time.Now()
		}
		if m.overdue(note) && time.Since(since) >= lateTime {
			return nil, &Error{Code: CodeStuck, Err: fmt.Errorf("%s (process %d), begun at %s, is past its deadline and keeps the lock: a device "+
				"below does not answer", note.Op, note.PID, note.Since.Format(time.RFC3339))}
		}
		select {
		case <-ctx.Done():
			if note.PID == 0 {
				return nil, &Error{Code: CodeBusy, Err: fmt.Errorf("another operation has the lock %s: %w", path, context.Cause(ctx))}
			}
			return nil, &Error{Code: CodeBusy, Err: fmt.Errorf("%s (process %d) has been running since %s: %w", note.Op, note.PID,
				note.Since.Format(time.RFC3339), context.Cause(ctx))}
		case <-time.After(lockPoll):
		}
	}
}

// tryLock takes the lock or fails with sys.ErrLocked.
func (m *Manager) tryLock(ctx context.Context, path, op string) (*lock, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err
		}
		if err := sys.TryLock(f); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		// If somebody cleared the runtime directory meanwhile, this locks a file that nobody else will find.
		mine, err1 := f.Stat()
		named, err2 := os.Stat(path)
		if err1 == nil && err2 == nil && os.SameFile(mine, named) {
			note := lockNote{PID: os.Getpid(), Op: op, Since: m.now().UTC()}
			if d, ok := ctx.Deadline(); ok {
				note.Deadline = d.Add(undoTime).UTC()
			} else {
				note.Deadline = note.Since.Add(lockDeadline)
			}
			if err := writeNote(f, note); err != nil {
				return nil, errors.Join(err, f.Close())
			}
			return &lock{f}, nil
		}
		f.Close()
		if err1 != nil || err2 != nil && !errors.Is(err2, os.ErrNotExist) {
			return nil, errors.Join(err1, err2)
		}
	}
}

// Release gives the lock up. The note goes first: what is left behind by a killed process is told from it by the flock.
func (l *lock) Release() {
	l.File.Truncate(0)
	l.File.Close()
}

// writeNote overwrites in place, since the flock is on this very file. A reader may see half of it, and tries again.
func writeNote(f *os.File, n lockNote) error {
	b, err := json.Marshal(n)
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(append(b, '\n'), 0)
	}
	if err != nil {
		return fmt.Errorf("write lock file: %w", err)
	}
	return nil
}

func readNote(path string) (lockNote, error) {
	f, err := os.Open(path)
	if err != nil {
		return lockNote{}, err
	}
	defer f.Close()
	var n lockNote
	err = json.NewDecoder(io.LimitReader(f, 4096)).Decode(&n)
	if err != nil {
		return lockNote{}, err
	}
	return n, nil
}

func (m *Manager) overdue(n lockNote) bool {
	return !n.Deadline.IsZero() && m.now().After(n.Deadline)
}

// stuck tells whether a volume's lock is held past its deadline, and by what. It takes no lock unless the note says that it is late.
func (m *Manager) stuck(name string) (lockNote, bool) {
	path := m.o.Paths.Lock(name)
	n, err := readNote(path)
	if err != nil || !m.overdue(n) {
		return lockNote{}, false
	}
	f, err := os.Open(path)
	if err != nil {
		return lockNote{}, false
	}
	defer f.Close()
	return n, errors.Is(sys.TryLock(f), sys.ErrLocked)
}
