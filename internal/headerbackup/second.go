// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/voluks/voluks/internal/atomicfile"
)

// The second directory is often on a share or a disk that comes and goes, and an unmounted one looks like an empty directory. It is therefore marked with a
// random id when it is first used, and the node remembers which one that was: a directory without it is never written to, and a backup that is not found
// there is not taken for destroyed.
const (
	markFile     = ".voluks-backups" // in the second directory
	rememberFile = "second.json"     // in State/backups
)

type remembered struct {
	Dir string `json:"dir"`
	ID  string `json:"id"`
}

// second returns the id of the second directory, marking it on first use. Any error wraps ErrPlace.
func (s *Store) second() (string, error) {
	id, err := s.identify()
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrPlace, err)
	}
	return id, nil
}

func (s *Store) identify() (string, error) {
	before, err := s.remembered()
	if err != nil {
		return "", err
	}
	id, err := mark(s.o.Second)
	known := before.Dir == s.o.Second
	switch {
	case errors.Is(err, fs.ErrNotExist) && known:
		return "", fmt.Errorf("it lacks the file %s that it had before: is it mounted?", markFile)
	case errors.Is(err, fs.ErrNotExist):
		if id, err = putMark(s.o.Second); err != nil {
			return "", err
		}
	case err != nil:
		return "", err
	case known && id != before.ID:
		return "", fmt.Errorf("it is another directory than before: its id is %s instead of %s", id, before.ID)
	}
	if known {
		return id, nil
	}
	return id, s.remember(remembered{Dir: s.o.Second, ID: id})
}

func (s *Store) remembered() (remembered, error) {
	var r remembered
	b, err := atomicfile.Read(filepath.Join(s.o.Dir, rememberFile), 1<<16)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	return r, err
}

func (s *Store) remember(r remembered) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(s.o.Dir, rememberFile), b, 0o600)
}

// mark reads the id of a directory. fs.ErrNotExist: the directory is there and has none.
func mark(dir string) (string, error) {
	if st, err := os.Stat(dir); err != nil {
		// The text must do: as an error it would look like a missing mark.
		return "", errors.New(err.Error())
	} else if !st.IsDir() {
		return "", errors.New("it is not a directory")
	}
	b, err := atomicfile.Read(filepath.Join(dir, markFile), 1<<10)
	return strings.TrimSpace(string(b)), err
}

func putMark(dir string) (string, error) {
	id := rand.Text()
	return id, atomicfile.Write(filepath.Join(dir, markFile), []byte(id+"\n"), 0o600)
}

// reachable says that a directory is the one with that id.
func reachable(dir, id string) error {
	got, err := mark(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %s lacks the file %s that it had before", ErrPlace, dir, markFile)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrPlace, err)
	case got != id:
		return fmt.Errorf("%w: %s is another directory than before", ErrPlace, dir)
	}
	return nil
}
