// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"bytes"
	"errors"
	"fmt"
	"math"

	"github.com/voluks/voluks/luks/header"
)

// RestoreOptions say what is to be restored to, and how much is accepted.
type RestoreOptions struct {
	Expect header.Expect // what the header must be; its UUID, that of the volume, is required

	// What the volume's record says it had reached. What the header on the device says, if it can be read, counts as well, and so do the names of the
	// volume's other backups.
	KnownGeneration uint64

	AcceptOlder    bool // restore although keys that were retired since come back to life
	DiscardPresent bool // restore although no backup of the header that is there can be taken
}

// Restored says what was done.
type Restored struct {
	Generation uint64      // of the backup
	Epoch      uint64      // of the header as it is now
	Older      *OlderError // not nil: an older one was accepted
	Saved      *Backup     // the header that was there; nil if none could be read, or it was the same
}

// Restore writes the header of a backup to a device. The volume must not be open. Before anything is written it refuses
//
//   - a backup of another volume, and a device with the header of another volume: *OtherVolumeError
//   - a header that voluks could not have written: *header.StrictError
//   - a backup older than what the volume had reached: *OlderError, unless AcceptOlder
//   - a volume in the middle of re-encryption: ErrReencrypting
//
// What is there is backed up first, if it can be read and is different. A crash at any point leaves something that Restore, called again, finishes. The
// header gets a higher epoch than the one that was there, so that libcryptsetup prefers it from the moment that one copy is written.
func (s *Store) Restore(open Opener, image *Image, o RestoreOptions) (*Restored, error) {
	r, err := s.restore(open, image, o)
	if err != nil {
		return nil, fmt.Errorf("restore the header of %s: %w", o.Expect.UUID, err)
	}
	return r, nil
}

func (s *Store) restore(open Opener, image *Image, o RestoreOptions) (*Restored, error) {
	if o.Expect.UUID == "" || image.Header.UUID != o.Expect.UUID {
		return nil, &OtherVolumeError{Backup: image.Header.UUID, Volume: o.Expect.UUID}
	}
	if err := image.Header.Strict(o.Expect); err != nil {
		return nil, err
	}
	present, there, err := look(open)
	if err := s.overwritable(there, err, o); err != nil {
		return nil, err
	}
	r := &Restored{Epoch: image.Header.Epoch}
	if r.Generation, r.Older, err = s.older(image, there, o); err != nil {
		return nil, err
	}
	if r.Older != nil && !o.AcceptOlder {
		return nil, r.Older
	}
	if r.Saved, err = s.save(present, image, o); err != nil {
		return nil, err
	}
	s.o.Crash("restore.saved")
	if there != nil {
		highest := max(there.Copies[0].Epoch, there.Copies[1].Epoch)
		if highest == math.MaxUint64 {
			return nil, fmt.Errorf("%w: its epoch is the highest possible", ErrUnusual)
		}
		r.Epoch = max(r.Epoch, highest+1)
	}
	return r, s.write(open, image.withEpoch(r.Epoch), goodCopy(there))
}

// goodCopy is the copy of the metadata, 0 or 1, that must not be overwritten before the other one is there. The first, if no one matters.
func goodCopy(there *header.Header) int {
	if there != nil && there.Copies[0].Err != nil {
		return 1
	}
	return 0
}

// overwritable decides by what was found on the device, and the error of finding it.
func (s *Store) overwritable(there *header.Header, err error, o RestoreOptions) error {
	switch {
	case there != nil && there.UUID != o.Expect.UUID:
		return &OtherVolumeError{Backup: o.Expect.UUID, Volume: there.UUID}
	case err == nil, errors.Is(err, header.ErrNotLUKS), errors.Is(err, header.ErrDamaged):
		return nil
	case errors.Is(err, ErrUnusual) && o.DiscardPresent:
		return nil
	default:
		return err
	}
}

// older compares the backup with what the volume is known to have reached.
func (s *Store) older(image *Image, there *header.Header, o RestoreOptions) (uint64, *OlderError, error) {
	generation, err := s.o.Generation(image.Header)
	if err != nil {
		return 0, nil, err
	}
	e := &OlderError{Generation: generation, KnownGeneration: o.KnownGeneration, Epoch: image.Header.Epoch}
	// Where the header is gone, and the record with it, other backups still tell how far the volume had come.
	others, err := s.list(o.Expect.UUID)
	if err != nil {
		return 0, nil, err
	}
	for _, b := range others {
		e.KnownGeneration = max(e.KnownGeneration, b.Name.Generation)
		if b.Name.Generation == generation {
			e.KnownEpoch = max(e.KnownEpoch, b.Name.Epoch)
		}
	}
	// The same metadata are there after a restore that did not come to its end, and tokens that cannot be read are a reason to restore, not one against.
	if there != nil && !sameMetadata(there, image.Header) {
		if g, err := s.o.Generation(there); err == nil {
			e.KnownGeneration = max(e.KnownGeneration, g)
			// Restoring raises the epoch, so only within one generation does it tell what was later.
			if g == generation {
				e.KnownEpoch = max(e.KnownEpoch, there.Epoch)
			}
		}
	}
	if generation < e.KnownGeneration || generation == e.KnownGeneration && e.Epoch < e.KnownEpoch {
		return generation, e, nil
	}
	return generation, nil, nil
}

func sameMetadata(a, b *header.Header) bool { return bytes.Equal(a.JSON, b.JSON) }

// save backs up what will be overwritten.
func (s *Store) save(present, image *Image, o RestoreOptions) (*Backup, error) {
	if present == nil || sameMetadata(present.Header, image.Header) {
		return nil, nil
	}
	b, err := s.keep(present, o.Expect.UUID)
	var second *SecondError
	if err == nil || errors.As(err, &second) || o.DiscardPresent {
		return b, nil
	}
	return nil, fmt.Errorf("back up the header that is there: %w", err)
}
