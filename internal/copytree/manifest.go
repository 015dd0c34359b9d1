// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/voluks/voluks/internal/sys"
)

// A Manifest is what a copy was made of: every file of the source, by what it is and not by its name alone, and what became of it in the copy.
type Manifest struct {
	Stats    Stats // numbers
	Verified bool  // Verify has shown all of it

	entries []Entry // the files of a directory before the directory
}

// Entry is one name of the source.
type Entry struct {
	path   string // relative; "" is the root
	source sys.Inode
	copy   sys.Inode // as Verify saw it; none of a socket
	sum    []byte    // of the content of a regular file: from the pass that copied it, or from Verify
}

const manifestVersion = 1

// manifestHead is the first line of a written manifest; each other line is an entry.
type manifestHead struct {
	V       int   `json:"v"`
	Entries int   `json:"entries"`
	Stats   Stats `json:"stats"`
}

// manifestLine is an entry as it is written. Paths are bytes: names need not be text.
type manifestLine struct {
	Path   []byte    `json:"path"`
	Source sys.Inode `json:"source"`
	Copy   sys.Inode `json:"copy"`
	Sum    []byte    `json:"sum,omitempty"`
}

// Write writes a verified manifest. It says what the files are called and what sums they have, so it belongs where they are: on an encrypted disk.
func (m *Manifest) Write(w io.Writer) error {
	if !m.Verified {
		return errors.New("write the manifest of a copy: it was not verified")
	}
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	if err := enc.Encode(manifestHead{manifestVersion, len(m.entries), m.Stats}); err != nil {
		return err
	}
	for _, e := range m.entries {
		if err := enc.Encode(manifestLine{[]byte(e.path), e.source, e.copy, e.sum}); err != nil {
			return err
		}
	}
	return b.Flush()
}

// ReadManifest reads what Write has written, all of it or nothing.
func ReadManifest(r io.Reader) (*Manifest, error) {
	lines := bufio.NewReader(r)
	decode := func(into any) error {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return fmt.Errorf("the manifest of the copy is cut: %w", err)
		}
		d := json.NewDecoder(bytes.NewReader(line))
		d.DisallowUnknownFields()
		return d.Decode(into)
	}
	var head manifestHead
	if err := decode(&head); err != nil {
		return nil, err
	}
	if head.V != manifestVersion {
		return nil, fmt.Errorf("the manifest of the copy has version %d, this program knows %d", head.V, manifestVersion)
	}
	m := &Manifest{Stats: head.Stats, Verified: true}
	for range head.Entries {
		var l manifestLine
		if err := decode(&l); err != nil {
			return nil, err
		}
		m.entries = append(m.entries, Entry{string(l.Path), l.Source, l.Copy, l.Sum})
	}
	return m, nil
}

// names are what the directories of the source have in them, sockets too.
func (m *Manifest) names() map[string]map[string]bool {
	all := map[string]map[string]bool{}
	for _, e := range m.entries {
		if e.path == "" {
			continue
		}
		dir, base := filepath.Split(e.path)
		dir = filepath.Clean("/" + dir)[1:]
		if all[dir] == nil {
			all[dir] = map[string]bool{}
		}
		all[dir][base] = e.source.Type() == sys.TypeSocket
	}
	return all
}
