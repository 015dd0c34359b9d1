// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/voluks/voluks/internal/atomicfile"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks/header"
)

// Take makes a backup of the header of the volume with that UUID. When it returns, the backup is durable in State; older ones are untouched, see Retire.
//
// A *SecondError comes together with a backup: it could not be written to the second directory, and is in State. All other errors mean that there is no new
// backup: recovery.ErrNoRecipient, ErrReencrypting, ErrUnusual, ErrChanging, *OtherVolumeError, what reading the header says, and I/O errors.
func (s *Store) Take(open Opener, uuid string) (*Backup, error) {
	b, err := s.take(open, uuid)
	var second *SecondError
	if err != nil && !errors.As(err, &second) {
		return nil, fmt.Errorf("back up the header of %s: %w", uuid, err)
	}
	return b, err
}

func (s *Store) take(open Opener, uuid string) (*Backup, error) {
	if len(s.o.Recipients) == 0 {
		return nil, recovery.ErrNoRecipient
	}
	image, _, err := look(open)
	if err != nil {
		return nil, err
	}
	return s.keep(image, uuid)
}

// look captures what is on a device.
func look(open Opener) (*Image, *header.Header, error) {
	d, err := open(false)
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	return capture(d, d.Size())
}

// keep writes an image to both places.
func (s *Store) keep(image *Image, uuid string) (*Backup, error) {
	if image.Header.UUID != uuid {
		return nil, &OtherVolumeError{Backup: image.Header.UUID, Volume: uuid}
	}
	generation, err := s.o.Generation(image.Header)
	if err != nil {
		return nil, err
	}
	taken := s.o.Now().UTC()
	content, err := encode(image, taken, s.o.Recipients)
	if err != nil {
		return nil, err
	}
	name := Name{Generation: generation, Epoch: image.Header.Epoch, Taken: taken, Digest: digestOf(content)}
	dir, err := makeFolder(s.o.Dir, uuid, true)
	if err != nil {
		return nil, err
	}
	if err := sweep(dir); err != nil {
		return nil, err
	}
	secondErr := s.note(dir, name.String())
	file := filepath.Join(dir, name.String())
	if err := write(file, content); err != nil {
		return nil, err
	}
	s.o.Crash("backup.written")
	b := &Backup{UUID: uuid, Name: name, Size: int64(len(content)), Copies: []Copy{{Path: file}}}
	if s.o.Second == "" {
		return b, nil
	}
	if secondErr == nil {
		secondErr = s.writeSecond(b, content)
	}
	if secondErr != nil {
		return b, &SecondError{Dir: s.o.Second, Err: secondErr}
	}
	return b, nil
}

// note writes down that there will be a second copy, before there is one.
func (s *Store) note(dir, name string) error {
	if s.o.Second == "" {
		return nil
	}
	id, err := s.second()
	if err != nil {
		return err
	}
	l, err := readLedger(dir)
	if err != nil {
		return err
	}
	l.add(secondCopy{Name: name, Dir: s.o.Second, ID: id})
	if err := l.write(dir); err != nil {
		return err
	}
	s.o.Crash("backup.noted")
	return nil
}

func (s *Store) writeSecond(b *Backup, content []byte) error {
	dir, err := makeFolder(s.o.Second, b.UUID, false)
	if err != nil {
		return err
	}
	if err := sweep(dir); err != nil {
		return err
	}
	file := filepath.Join(dir, b.Name.String())
	if err := write(file, content); err != nil {
		return err
	}
	b.Copies = append(b.Copies, Copy{Path: file})
	s.o.Crash("backup.second")
	return nil
}

// write makes a backup durable. Nobody reads it soon, and half a megabyte for each of many volumes is not to fill the memory.
func write(file string, content []byte) error {
	if err := atomicfile.Write(file, content, 0o600); err != nil {
		return err
	}
	sys.DropCache(file)
	return nil
}

// sweep destroys what interrupted writes left in a directory.
func sweep(dir string) error {
	_, leftovers, err := files(dir)
	if err != nil {
		return err
	}
	for _, name := range leftovers {
		if _, err := destroy(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}
