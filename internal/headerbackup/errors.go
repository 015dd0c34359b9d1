// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"errors"
	"fmt"
)

var (
	// ErrOther is what every *OtherVolumeError is, for errors.Is.
	ErrOther = errors.New("header of another volume")
	// ErrOlder is what every *OlderError is.
	ErrOlder = errors.New("older than the volume's header")
	// ErrDamaged means that a backup file is not the one that was written: its content does not match its name.
	ErrDamaged = errors.New("damaged backup")
	// ErrNone means that a volume has no such backup.
	ErrNone = errors.New("no such header backup")
	// ErrPlace means that the second directory is not there, or is not the one that was used before. It may be unmounted.
	ErrPlace = errors.New("second backup directory cannot be used")
)

// An OtherVolumeError is a backup that belongs to another volume than it was to be restored to.
type OtherVolumeError struct{ Backup, Volume string } // UUIDs

// Error names both.
func (e *OtherVolumeError) Error() string {
	return fmt.Sprintf("the backup has the %v: of %s, and the volume is %s", ErrOther, e.Backup, e.Volume)
}

// Is makes every OtherVolumeError an ErrOther.
func (e *OtherVolumeError) Is(target error) bool { return target == ErrOther }

// An OlderError is a backup from before the header that the volume has or is known to have had. Restoring it revives the keys that were retired since.
type OlderError struct {
	Generation, KnownGeneration uint64 // of the backup, and of the volume
	Epoch, KnownEpoch           uint64 // KnownEpoch 0: not known
}

// Error says by what it is older.
func (e *OlderError) Error() string {
	if e.Generation < e.KnownGeneration {
		return fmt.Sprintf("the backup is %v: it has generation %d and the volume had reached %d; keys that were retired since would open it again", ErrOlder, e.Generation, e.KnownGeneration)
	}
	return fmt.Sprintf("the backup is %v: both have generation %d, but the backup is of epoch %d, and the header or another backup of epoch %d", ErrOlder, e.Generation, e.Epoch, e.KnownEpoch)
}

// Is makes every OlderError an ErrOlder.
func (e *OlderError) Is(target error) bool { return target == ErrOlder }

// A SecondError means that a backup was taken and lies in State, but not in the second directory.
type SecondError struct {
	Dir string // the second directory
	Err error  // why it cannot be used
}

// Error says where it is missing.
func (e *SecondError) Error() string {
	return fmt.Sprintf("the backup is not in the second directory %s: %v", e.Dir, e.Err)
}

// Unwrap gives the cause.
func (e *SecondError) Unwrap() error { return e.Err }
