// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/voluks/voluks/internal/atomicfile"
	"github.com/voluks/voluks/internal/sys"
)

// migrationNote is what is known of the passes into a volume. Without it a pass only goes into an empty volume; losing it loses no data.
type migrationNote struct {
	Source   string    `json:"source"`             // where the plain data was at first
	Ended    time.Time `json:"ended,omitzero"`     // of the last pass, if that came to its end: what changed in the volume afterwards is somebody else's
	Aside    string    `json:"aside,omitempty"`    // where the plain data goes, once a verified copy is there
	Removing bool      `json:"removing,omitempty"` // what is there is no source any more
}

// migrations is the note of a volume, and the lock of whoever migrates into it.
type migrations struct {
	file string
	lock *os.File
	migrationNote
}

// lockMigrations reads the note of the volume with that UUID. The caller closes it. sys.ErrLocked: another migration into it runs.
func (e *env) lockMigrations(uuid string) (*migrations, error) {
	dir := filepath.Join(e.paths().State, "migrations")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	n := &migrations{file: filepath.Join(dir, uuid+".json")}
	var err error
	if n.lock, err = os.OpenFile(filepath.Join(dir, uuid+".lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err := sys.TryLock(n.lock); err != nil {
		n.lock.Close()
		return nil, err
	}
	const largest = 64 << 10
	b, err := atomicfile.Read(n.file, largest)
	if err == nil {
		err = json.Unmarshal(b, &n.migrationNote)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		n.lock.Close()
		return nil, fmt.Errorf("read the note of earlier migrations: %w", err)
	}
	return n, nil
}

func (n *migrations) close() error { return n.lock.Close() }

// write makes a change of the note durable.
func (n *migrations) write(change func(*migrationNote)) error {
	change(&n.migrationNote)
	b, err := json.Marshal(n.migrationNote)
	if err != nil {
		return err
	}
	return atomicfile.Write(n.file, append(b, '\n'), 0o600)
}
