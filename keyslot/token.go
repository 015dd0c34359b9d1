// SPDX-License-Identifier: Apache-2.0

package keyslot

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/luks/header"
)

// Types of the tokens of voluks. Everything that begins with Prefix is ours, known or not.
const (
	Prefix       = "voluks-"
	TypeAgent    = "voluks-agent"
	TypeRecovery = "voluks-recovery"
	TypeVolume   = "voluks-volume"
	TypePending  = "voluks-pending"
)

// version is the one that this voluks writes, and the only one that it reads.
const version = 1

// MaxTokens is the limit in bytes for all tokens of a header together, others' included. The JSON
// area has 60 KiB and cannot grow; during a rotation old and new tokens stand side by side.
const MaxTokens = 24 << 10

// AgentToken describes the slot that the node opens by itself.
type AgentToken struct {
	Slot       int     // that it describes
	UUID       string  // of the header
	Generation uint64  // from 1, grows with each rotation of the volume's slots
	KEK        kek.Ref // that wraps W
	Wrap       []byte  // W, wrapped by KEK
	Sealed     []byte  // the slot key, sealed under W; see seal
	// History names every key that has ever wrapped a W of this slot key, KEK included, without
	// versions: when one of them leaks, the slot key has to be replaced.
	History []kek.Ref
	// Former names other keys that have wrapped earlier slot keys of this volume, those of the latest first. None of them opens this header; each of them does
	// open a copy that was made in its time, and that is all the same a way to the data, since the volume key stays.
	Former  []kek.Ref
	Created time.Time // of the slot key; whole seconds, UTC
}

// RecoveryToken describes the slot that only the recovery identity opens.
type RecoveryToken struct {
	Slot       int       // that it describes
	UUID       string    // of the LUKS header
	Generation uint64    // of its key
	Recipients []string  // fingerprints of those whom Age is sealed to
	Age        string    // the slot key, as an armored age file
	Created    time.Time // whole seconds, UTC
}

// VolumeToken describes the volume as a whole. It is written once the file system exists, so that its
// presence means that the volume was once ready and must never be formatted again.
type VolumeToken struct {
	UUID   string `json:"-"` // of the header; set by SetVolume
	Name   string // when the volume was made
	FS     string // type of the file system
	FSUUID string // of the file system
	// Options are those of the volume's creation that a lost record is made again from.
	Options map[string]string
	// HighestGeneration is the highest one that any slot of this volume ever had. An older header put
	// back in place is known by it.
	HighestGeneration uint64
}

// The tokens as JSON. The order of members is that of the file; numbers of slots are strings, as LUKS2
// wants them.
type (
	commonJSON struct {
		Type     string   `json:"type"`
		Keyslots []string `json:"keyslots"`
		V        int      `json:"v"`
		UUID     string   `json:"uuid"`
	}
	agentJSON struct {
		commonJSON
		Role       string    `json:"role"`
		Generation uint64    `json:"generation"`
		KEK        kek.Ref   `json:"kek"`
		Wrap       []byte    `json:"wrap"`
		Sealed     []byte    `json:"sealed"`
		History    []kek.Ref `json:"kek_history"`
		Former     []kek.Ref `json:"kek_former,omitempty"`
		Created    string    `json:"created"`
	}
	recoveryJSON struct {
		commonJSON
		Role       string   `json:"role"`
		Generation uint64   `json:"generation"`
		Recipients []string `json:"recipients"`
		Age        string   `json:"age"`
		Created    string   `json:"created"`
	}
	volumeJSON struct {
		commonJSON
		Name              string            `json:"name"`
		FS                string            `json:"fs"`
		FSUUID            string            `json:"fs_uuid"`
		Options           map[string]string `json:"options"`
		HighestGeneration uint64            `json:"highest_generation"`
	}
)

func common(kind, uuid string, slots ...int) commonJSON {
	c := commonJSON{Type: kind, Keyslots: []string{}, V: version, UUID: uuid}
	for _, slot := range slots {
		c.Keyslots = append(c.Keyslots, strconv.Itoa(slot))
	}
	return c
}

// Encode returns the token as it stands in the header. It refuses what Decode would refuse.
func (t AgentToken) Encode() ([]byte, error) {
	return encode(agentJSON{common(TypeAgent, t.UUID, t.Slot), RoleAgent, t.Generation, t.KEK, t.Wrap, t.Sealed, t.History, t.Former, stamp(t.Created)}, t.validate())
}

// Encode returns the token as it stands in the header. It refuses what Decode would refuse.
func (t RecoveryToken) Encode() ([]byte, error) {
	return encode(recoveryJSON{common(TypeRecovery, t.UUID, t.Slot), RoleRecovery, t.Generation, t.Recipients, t.Age, stamp(t.Created)}, t.validate())
}

// Encode returns the token as it stands in the header. It refuses what Decode would refuse.
func (t VolumeToken) Encode() ([]byte, error) {
	options := t.Options
	if options == nil {
		options = map[string]string{}
	}
	return encode(volumeJSON{common(TypeVolume, t.UUID), t.Name, t.FS, t.FSUUID, options, t.HighestGeneration}, t.validate())
}

func encode(v any, invalid error) ([]byte, error) {
	if invalid != nil {
		return nil, fmt.Errorf("encode a token: %w", invalid)
	}
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false) // armored keys and names are easier to read by other programs without
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode a token: %w", err)
	}
	return bytes.TrimSuffix(out.Bytes(), []byte("\n")), nil
}

// errVersion is a version that is not ours, as written.
type errVersion string

func (e errVersion) Error() string { return "unknown version " + string(e) }

// DecodeToken returns an AgentToken, RecoveryToken, VolumeToken or PendingToken. What it accepts is exactly what
// Encode writes, up to white space, order of members and ways to escape a character: headers are not
// authenticated, and anything else was not written by voluks. The error of an unknown version is an
// ErrUnknownVersion, whatever else is in the token.
func DecodeToken(raw []byte) (any, error) {
	token, err := decode(raw)
	if v := errVersion(""); errors.As(err, &v) {
		return nil, fmt.Errorf("%w: %s", ErrUnknownVersion, string(v))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrToken, err)
	}
	return token, nil
}

func decode(raw []byte) (any, error) {
	if len(raw) > MaxTokens {
		return nil, fmt.Errorf("%d bytes", len(raw))
	}
	var kind struct {
		Type string          `json:"type"`
		V    json.RawMessage `json:"v"`
	}
	if err := json.Unmarshal(raw, &kind); err != nil {
		return nil, errors.New("not a JSON object of a token")
	}
	if !strings.HasPrefix(kind.Type, Prefix) {
		return nil, fmt.Errorf("type %q is not ours", kind.Type)
	}
	if string(kind.V) != strconv.Itoa(version) {
		return nil, errVersion(kind.V)
	}
	switch kind.Type {
	case TypeAgent:
		return decodeAs(raw, agentJSON.token, AgentToken.validate, AgentToken.Encode)
	case TypeRecovery:
		return decodeAs(raw, recoveryJSON.token, RecoveryToken.validate, RecoveryToken.Encode)
	case TypeVolume:
		return decodeAs(raw, volumeJSON.token, VolumeToken.validate, VolumeToken.Encode)
	case TypePending:
		return decodeAs(raw, pendingJSON.token, PendingToken.validate, PendingToken.Encode)
	}
	return nil, fmt.Errorf("type %q is not known", kind.Type)
}

func decodeAs[J, T any](raw []byte, convert func(J) (T, error), validate func(T) error, encode func(T) ([]byte, error)) (any, error) {
	var v J
	if err := json.Unmarshal(raw, &v); err != nil {
		return nil, errors.New("members of the wrong kind") // the decoder's words quote contents
	}
	token, err := convert(v)
	if err != nil {
		return nil, err
	}
	if err := validate(token); err != nil {
		return nil, err
	}
	again, err := encode(token)
	if err != nil {
		return nil, err
	}
	if !sameJSON(raw, again) {
		return nil, errors.New("members that are not known, missing, or not in their only form")
	}
	return token, nil
}

// sameJSON compares two documents by value. Of members that occur twice the header's own reader has
// made sure that there are none.
func sameJSON(a, b []byte) bool {
	normal := func(raw []byte) []byte {
		var v any
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		if d.Decode(&v) != nil || d.More() {
			return nil
		}
		out, err := json.Marshal(v)
		if err != nil {
			return nil
		}
		return out
	}
	x, y := normal(a), normal(b)
	return x != nil && bytes.Equal(x, y)
}

func (j agentJSON) token() (AgentToken, error) {
	t := AgentToken{UUID: j.UUID, Generation: j.Generation, KEK: j.KEK, Wrap: j.Wrap, Sealed: j.Sealed, History: j.History, Former: j.Former}
	return t, cmp.Or(j.slot(&t.Slot), role(j.Role, RoleAgent), parseStamp(j.Created, &t.Created))
}

func (j recoveryJSON) token() (RecoveryToken, error) {
	t := RecoveryToken{UUID: j.UUID, Generation: j.Generation, Recipients: j.Recipients, Age: j.Age}
	return t, cmp.Or(j.slot(&t.Slot), role(j.Role, RoleRecovery), parseStamp(j.Created, &t.Created))
}

func (j volumeJSON) token() (VolumeToken, error) {
	if len(j.Keyslots) != 0 {
		return VolumeToken{}, errors.New("names key slots")
	}
	return VolumeToken{UUID: j.UUID, Name: j.Name, FS: j.FS, FSUUID: j.FSUUID, Options: j.Options, HighestGeneration: j.HighestGeneration}, nil
}

func (j commonJSON) slot(into *int) error {
	if len(j.Keyslots) != 1 {
		return fmt.Errorf("names %d key slots instead of one", len(j.Keyslots))
	}
	n, err := strconv.Atoi(j.Keyslots[0])
	if err != nil || n < 0 || n >= header.MaxKeyslots {
		return errors.New("names a key slot that cannot exist")
	}
	*into = n
	return nil
}

func role(got, want string) error {
	if got != want {
		return errors.New("type and role do not match")
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func parseStamp(s string, into *time.Time) error {
	t, err := time.Parse("2006-01-02T15:04:05Z", s)
	if err != nil {
		return errors.New("created is not a time in UTC")
	}
	*into = t
	return nil
}
