// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/voluks/voluks/internal/atomicfile"
)

// A ledger is copies.json in the directory of a volume: where copies may be that State does not show, and what became of the last ones. It is written
// before a copy is, and after one was destroyed, so that it never forgets one.
type ledger struct {
	V         int          `json:"v"`
	Copies    []secondCopy `json:"copies,omitempty"`
	Destroyed []Gone       `json:"destroyed,omitempty"` // the last ones
}

// secondCopy is a copy in a second directory, which may be another one than is configured now.
type secondCopy struct {
	Name string `json:"name"`
	Dir  string `json:"dir"`
	ID   string `json:"id"`
}

// Gone is a copy of a backup that was destroyed, or could not be.
type Gone struct {
	Name string    `json:"name"`          // of the backup
	Dir  string    `json:"dir"`           // the directory above that of the volume
	When time.Time `json:"when"`          // it was destroyed
	How  string    `json:"how,omitempty"` // of a destroyed one: OverwrittenInPlace, LogicalOnly or AlreadyGone
	Why  string    `json:"why,omitempty"` // of another: why it may still be there
}

// What destroying a file can have meant.
const (
	OverwrittenInPlace = "overwritten in place" // as far as anybody above the medium can tell
	LogicalOnly        = "logical only"         // the old content may lie where it was: copy-on-write, a journal, a snapshot, an SSD, a network share, unknown
	AlreadyGone        = "already gone"         // somebody else removed it, in an unknown way
)

const (
	ledgerFile    = "copies.json"
	ledgerVersion = 1
	maxLedger     = 1 << 20 // bytes
	maxDestroyed  = 32      // remembered
)

func readLedger(dir string) (*ledger, error) {
	l := &ledger{V: ledgerVersion}
	path := filepath.Join(dir, ledgerFile)
	b, err := atomicfile.Read(path, maxLedger)
	if errors.Is(err, fs.ErrNotExist) {
		return l, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, l); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if l.V != ledgerVersion {
		return nil, fmt.Errorf("read %s: version %d is not known", path, l.V)
	}
	for _, c := range l.Copies {
		if _, ok := ParseName(c.Name); !ok {
			return nil, fmt.Errorf("read %s: %.80q is not the name of a backup", path, c.Name)
		}
	}
	return l, nil
}

func (l *ledger) write(dir string) error {
	if n := len(l.Destroyed); n > maxDestroyed {
		l.Destroyed = l.Destroyed[n-maxDestroyed:]
	}
	b, err := json.MarshalIndent(l, "", "\t")
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, ledgerFile), append(b, '\n'), 0o600)
}

func (l *ledger) add(c secondCopy) {
	if !slices.Contains(l.Copies, c) {
		l.Copies = append(l.Copies, c)
	}
}
