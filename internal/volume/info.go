// SPDX-License-Identifier: Apache-2.0

package volume

import "time"

// State is where a volume stands.
type State string

// The states. StatePrepared and StateFormatted are creations that have not ended; the others are complete volumes.
const (
	StatePrepared  State = "prepared"  // creation begun: record and perhaps an image, no key slots yet
	StateFormatted State = "formatted" // LUKS container made; no file system yet
	StateReady     State = "ready"     // complete and closed
	StateMounted   State = "mounted"   // complete, mounted and proven, held by somebody
	StateClosing   State = "closing"   // nobody holds it, but it is still open: closed as soon as the kernel lets go
	StateLocked    State = "locked"    // complete and closed, and the last attempt to open it got no key; Reason says why
	StateStuck     State = "stuck"     // an operation on it is past its deadline: a device below does not answer
	StateDamaged   State = "damaged"   // record, mount or mapping is not what it must be; Reason says what
)

// Info describes a volume. It holds no secret. Its JSON form is stable: fields are added, never renamed.
type Info struct {
	Name       string            `json:"name"`                 // of the volume
	UUID       string            `json:"uuid"`                 // of the LUKS header
	State      State             `json:"state"`                // where it stands
	Reason     string            `json:"reason,omitempty"`     // why it is locked, stuck, damaged or closing
	NextTry    *time.Time        `json:"next_try,omitempty"`   // of a locked volume: when the agent asks for its key again; none: it does not
	Size       int64             `json:"size"`                 // bytes of the file system's device
	Used       *int64            `json:"used,omitempty"`       // bytes; only while mounted
	Avail      *int64            `json:"avail,omitempty"`      // bytes; only while mounted
	FS         string            `json:"fs"`                   // type of the file system
	Backing    string            `json:"backing"`              // kind of the backing
	Cipher     string            `json:"cipher"`               // for people
	Workqueue  string            `json:"workqueue"`            // "on", "off": whether dm-crypt puts requests into queues of its own
	Mountpoint string            `json:"mountpoint,omitempty"` // the directory for users; only when proven right now
	Holders    []Holder          `json:"holders"`              // who uses it; never nil
	Slots      []SlotInfo        `json:"slots"`                // managed key slots, as of the last operation that read the header
	KeySince   *time.Time        `json:"key_since,omitempty"`  // when the oldest managed slot key was made
	Created    time.Time         `json:"created"`              // when its creation began
	Options    map[string]string `json:"options"`              // all of them, defaults included, as ParseOptions would take them
	Warnings   []string          `json:"warnings,omitempty"`   // for people
	Drill      *Drill            `json:"drill,omitempty"`      // when the recovery identity last opened it, for a trial
	DrillDue   string            `json:"drill_due,omitempty"`  // why it is time for another trial; one of the warnings
	// Migrating says that its data is not whole yet; nil: it is.
	Migrating *Migrating `json:"migrating,omitempty"`
	// PastRecipients are fingerprints of recovery identities that its recovery slot was once sealed to: each still opens the volume with a copy of the
	// header from then.
	PastRecipients []string `json:"past_recipients,omitempty"`
}

// SlotInfo is what a token says about one key slot.
type SlotInfo struct {
	Role       string    `json:"role"`                 // agent, recovery, or the type of a foreign slot
	Number     int       `json:"number"`               // of the key slot
	Generation uint64    `json:"generation"`           // counts the keys that the volume has had
	KEK        string    `json:"kek,omitempty"`        // provider and public id of the key that wraps it
	Created    time.Time `json:"created"`              // when its key was made
	Recipients []string  `json:"recipients,omitempty"` // of the recovery slot: fingerprints of those whom it is sealed to
}

// Finished reports whether the volume's creation has ended. Docker must be told "no such volume" of any other, or it would never send the
// Create again that finishes it.
func (i Info) Finished() bool { return i.State != StatePrepared && i.State != StateFormatted }

// KeyAge is the age of the oldest managed slot key at the time now, 0 if unknown.
func (i Info) KeyAge(now time.Time) time.Duration {
	if i.KeySince == nil {
		return 0
	}
	return now.Sub(*i.KeySince)
}
