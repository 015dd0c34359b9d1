// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"fmt"
	"os"
)

// Syncer makes header changes durable, and reports when they are not. The kernel tells of a failed write only to descriptors that were open when it failed, and
// libcryptsetup ignores a failed fsync: so open a Syncer before the first change, and call Sync before relying on the last one.
type Syncer struct{ f *os.File }

// Syncer opens one for the container. The caller closes it.
func (c *Container) Syncer() (*Syncer, error) {
	f, err := os.Open(c.path)
	if err != nil {
		return nil, fmt.Errorf("open to sync: %w", err)
	}
	return &Syncer{f}, nil
}

// Sync returns nil once everything written to the container so far is durable. After an error what is on the disk is unknown, and a second Sync would not
// tell: read it back past the cache.
func (s *Syncer) Sync() error {
	if err := s.f.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return nil
}

// Close closes the descriptor. It syncs nothing.
func (s *Syncer) Close() error { return s.f.Close() }
