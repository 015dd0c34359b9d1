// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/voluks/voluks/internal/crashpoint"
	"github.com/voluks/voluks/internal/lateregexp"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks/header"
)

// Options of a Store.
type Options struct {
	Dir        string               // State/backups; made if it is missing, but its parent must exist
	Second     string               // a second directory, which must exist; "": none
	Recipients []recovery.Recipient // who can open a backup; without any none is taken

	// Generation reads the highest generation of the managed slots out of a header. What tokens mean is for package keyslot to know.
	Generation func(*header.Header) (uint64, error)

	Now   func() time.Time   // nil: time.Now
	Crash func(point string) // called after each durable step; nil: crashpoint.Hit
}

// Store keeps the header backups of a node.
type Store struct{ o Options }

// New returns the store. Nothing is touched yet.
func New(o Options) *Store {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Crash == nil {
		o.Crash = crashpoint.Hit
	}
	return &Store{o}
}

var uuidPattern = lateregexp.New(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// folder returns the directory of a volume below root. A UUID comes from a header, which anybody may have written, and becomes part of a path.
func folder(root, uuid string) (string, error) {
	if !uuidPattern().MatchString(uuid) {
		return "", fmt.Errorf("%.60q is not a UUID in lower case", uuid)
	}
	return filepath.Join(root, uuid), nil
}

// makeFolder makes the directory of a volume below root durably. Root itself must exist unless mayMake.
func makeFolder(root, uuid string, mayMake bool) (string, error) {
	dir, err := folder(root, uuid)
	if err != nil {
		return "", err
	}
	if mayMake {
		if err := makeDir(root); err != nil {
			return "", err
		}
	}
	return dir, makeDir(dir)
}

func makeDir(dir string) error {
	err := os.Mkdir(dir, 0o700)
	if errors.Is(err, fs.ErrExist) {
		st, err := os.Lstat(dir)
		if err == nil && !st.IsDir() {
			err = fmt.Errorf("%s is not a directory", dir)
		}
		return err
	}
	if err != nil {
		return err
	}
	return sys.SyncDir(filepath.Dir(dir))
}

// files lists the backups in a volume's directory, and what interrupted writes left there. No directory, no files.
func files(dir string) (backups, leftovers []string, err error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	for _, e := range entries {
		if _, ok := ParseName(e.Name()); ok {
			backups = append(backups, e.Name())
		} else if leftover(e.Name()) {
			leftovers = append(leftovers, e.Name())
		}
	}
	return backups, leftovers, err
}
