// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/voluks/voluks/internal/atomicfile"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/sys"
)

// A Backup is one backup of one volume, in up to two copies.
type Backup struct {
	UUID   string // of the volume
	Name   Name   // says what may be public
	Size   int64  // bytes of one copy; 0 if none can be reached
	Copies []Copy // in this directory and the second one
}

// A Copy is a file with a backup. Err says why it cannot be reached now.
type Copy struct {
	Path string // of the file
	Err  error  // why it cannot be used; nil if it is whole
}

// Volumes returns the UUIDs of the volumes that have backups in State.
func (s *Store) Volumes() ([]string, error) {
	entries, err := os.ReadDir(s.o.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var uuids []string
	for _, e := range entries {
		if e.IsDir() && uuidPattern().MatchString(e.Name()) {
			uuids = append(uuids, e.Name())
		}
	}
	return uuids, err
}

// List returns the backups of a volume, the newest last: those in State and those that the ledger knows of. A volume without any has an empty list.
func (s *Store) List(uuid string) ([]Backup, error) {
	list, err := s.list(uuid)
	if err != nil {
		return nil, fmt.Errorf("list the header backups of %s: %w", uuid, err)
	}
	return list, nil
}

func (s *Store) list(uuid string) ([]Backup, error) {
	dir, err := folder(s.o.Dir, uuid)
	if err != nil {
		return nil, err
	}
	names, _, err := files(dir)
	if err != nil {
		return nil, err
	}
	l, err := readLedger(dir)
	if err != nil {
		return nil, err
	}
	found := map[string]*Backup{}
	add := func(name, path string, err error) {
		b := found[name]
		if b == nil {
			n, _ := ParseName(name)
			b = &Backup{UUID: uuid, Name: n}
			found[name] = b
		}
		if err == nil {
			var st os.FileInfo
			if st, err = os.Lstat(path); err == nil {
				b.Size = st.Size()
			}
		}
		b.Copies = append(b.Copies, Copy{Path: path, Err: err})
	}
	for _, name := range names {
		add(name, filepath.Join(dir, name), nil)
	}
	for _, c := range l.Copies {
		add(c.Name, filepath.Join(c.Dir, uuid, c.Name), reachable(c.Dir, c.ID))
	}
	list := make([]Backup, 0, len(found))
	for _, b := range found {
		list = append(list, *b)
	}
	slices.SortFunc(list, func(a, b Backup) int {
		return cmp.Or(cmp.Compare(a.Name.Generation, b.Name.Generation), cmp.Compare(a.Name.Epoch, b.Name.Epoch), a.Name.Taken.Compare(b.Name.Taken), cmp.Compare(a.Name.Digest, b.Name.Digest))
	})
	return list, nil
}

// Verify says whether a copy is what was written, without being able to open it. ErrDamaged, ErrNone, or an I/O error.
func (c Copy) Verify() error {
	if c.Err != nil {
		return c.Err
	}
	return verify(c.Path)
}

func verify(path string) error {
	_, err := content(path)
	return err
}

// content reads a backup file. If its name is that of a backup it must match the content; a file that somebody renamed is left to age's own check.
func content(path string) ([]byte, error) {
	b, err := atomicfile.Read(path, maxFile)
	sys.DropCache(path) // see write
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	if err != nil {
		return nil, err
	}
	if n, ok := ParseName(filepath.Base(path)); ok && n.Digest != digestOf(b) {
		return nil, fmt.Errorf("%s: %w: its content does not match its name", path, ErrDamaged)
	}
	return b, nil
}

// Open reads a backup with the identity and checks that it is whole: both copies of the metadata good and the same, slots in their places, nothing besides.
// What it may be restored to is for Restore to say. Errors wrap recovery.ErrWrongIdentity, recovery.ErrSealed, ErrDamaged, ErrUnreadable or ErrNone.
func Open(path string, identities []recovery.Identity) (*Image, error) {
	b, err := content(path)
	if err != nil {
		return nil, fmt.Errorf("open a header backup: %w", err)
	}
	i, err := decode(b, identities)
	if err != nil {
		return nil, fmt.Errorf("open the header backup %s: %w", path, err)
	}
	return i, nil
}
