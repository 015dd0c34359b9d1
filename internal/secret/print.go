// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"errors"
	"fmt"
	"log/slog"
)

// What a key looks like, whoever prints it.
const printed = "[key]"

// ErrUnprintable means that something tried to encode a key.
var ErrUnprintable = errors.New("a key cannot be encoded")

// String returns "[key]".
func (k *Key) String() string { return printed }

// GoString returns "[key]".
func (k *Key) GoString() string { return printed }

// Format writes "[key]" for every verb.
func (k *Key) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte(printed)) }

// LogValue returns "[key]".
func (k *Key) LogValue() slog.Value { return slog.StringValue(printed) }

// MarshalJSON returns ErrUnprintable.
func (k *Key) MarshalJSON() ([]byte, error) { return nil, ErrUnprintable }

// MarshalText returns ErrUnprintable; most encoders other than JSON ask for it.
func (k *Key) MarshalText() ([]byte, error) { return nil, ErrUnprintable }

// MarshalBinary returns ErrUnprintable; gob asks for it.
func (k *Key) MarshalBinary() ([]byte, error) { return nil, ErrUnprintable }
