// SPDX-License-Identifier: Apache-2.0

package share

import (
	"fmt"

	"github.com/voluks/voluks/internal/secret"
)

// The layout, in symbols of five bits:
//
//	version (3 bits) and kind (2 bits)   1
//	k-1, n-1, number-1, clear bits       1 each
//	fingerprint, 64 bits and a zero     13
//	root of the tree                    10
//	value, 255 bits, big-endian         51
//	path, from the leaf upwards         10 for each level
//	checksum                             6
const (
	// GroupSize is how many characters stand together.
	GroupSize = 5

	fixedSymbols = 5 + 13 + 10 + 51 + checksumLength
	maxSymbols   = fixedSymbols + 4*10

	groupSize     = GroupSize
	groupsPerLine = 5

	maxInput = 8 << 10 // bytes; comments may surround a share
)

// Text returns the share as it is to be printed or typed: groups of five characters, five groups to a line, without a line end at the end. The caller
// wipes it.
func (s *Share) Text() (*secret.Key, error) { return s.spell(" ", "\n") }

// Line returns the same characters with nothing between them, which makes the smallest QR code. The caller wipes it.
func (s *Share) Line() (*secret.Key, error) { return s.spell("", "") }

func (s *Share) spell(between, lineEnd string) (*secret.Key, error) {
	symbols, err := s.symbols()
	if err != nil {
		return nil, err
	}
	defer symbols.Wipe()
	n := symbols.Len()
	out, err := secret.New(n + (n-1)/groupSize*len(between))
	if err != nil {
		return nil, err
	}
	b := out.Bytes()[:0]
	for i, v := range symbols.Bytes() {
		switch {
		case i > 0 && i%(groupSize*groupsPerLine) == 0:
			b = append(b, lineEnd...)
		case i > 0 && i%groupSize == 0:
			b = append(b, between...)
		}
		b = append(b, alphabet[v])
	}
	return out, nil
}

// symbols encodes the share, one symbol to a byte.
func (s *Share) symbols() (*secret.Key, error) {
	out, err := secret.New(fixedSymbols + len(s.path)*10)
	if err != nil {
		return nil, err
	}
	b := out.Bytes()
	w := &writer{to: b}
	w.bits(Version, 3)
	w.bits(uint64(s.Kind), 2)
	w.bits(uint64(s.Needed-1), 5)
	w.bits(uint64(s.Total-1), 5)
	w.bits(uint64(s.Number-1), 5)
	w.bits(uint64(s.clear), 5)
	w.bytes(s.Fingerprint[:])
	w.bits(0, 1)
	w.bits(uint64(s.root), digestBits)
	value := s.value.Bytes() // little-endian, below 2^253
	w.bits(uint64(value[31]), 7)
	for i := 30; i >= 0; i-- {
		w.bits(uint64(value[i]), 8)
	}
	for _, d := range s.path {
		w.bits(uint64(d), digestBits)
	}
	seal(b)
	return out, nil
}

// Parse reads a share from what was typed, or from a whole printed page. The caller wipes the share; text stays the caller's.
//
// A nil error means that the text is what was printed and that the share is one that was handed out: its value leads to the root it names. What belongs
// together is for Check and Combine to say. Errors: *TypoError (an ErrMistyped), ErrVersion, ErrForged.
func Parse(text []byte) (*Share, error) {
	symbols, err := scan(text)
	if err != nil {
		return nil, fmt.Errorf("read a share: %w", err)
	}
	defer symbols.Wipe()
	s, err := decode(symbols.Bytes())
	if err != nil {
		return nil, fmt.Errorf("read a share: %w", err)
	}
	return s, nil
}

// scan turns text into symbols and checks nothing but characters.
func scan(text []byte) (*secret.Key, error) {
	if len(text) > maxInput {
		return nil, &TypoError{What: fmt.Sprintf("%d bytes are too much for a share", len(text))}
	}
	room, err := secret.New(maxInput)
	if err != nil {
		return nil, err
	}
	defer room.Wipe()
	found := room.Bytes()[:0]
	comment, fresh := false, true // fresh: nothing but blanks in this line so far
	for _, c := range text {
		switch {
		case c == '\n':
			comment, fresh = false, true
		case comment || c == ' ' || c == '\t' || c == '\r' || c == '-':
		case fresh && c == '#':
			comment = true
		case values[c] == notASymbol:
			return nil, typoAt(len(found), "no share has this character")
		default:
			fresh = false
			found = append(found, values[c])
		}
	}
	if len(found) == 0 {
		return nil, &TypoError{What: "nothing was given"}
	}
	out, err := secret.New(len(found))
	if err != nil {
		return nil, err
	}
	copy(out.Bytes(), found)
	return out, nil
}

func decode(symbols []symbol) (*Share, error) {
	if !sound(symbols) {
		return nil, locate(symbols)
	}
	r := &reader{from: symbols}
	if version := r.bits(3); version != Version {
		return nil, fmt.Errorf("form %d: %w", version, ErrVersion)
	}
	s := &Share{Kind: Kind(r.bits(2))}
	s.Needed, s.Total, s.Number = int(r.bits(5))+1, int(r.bits(5))+1, int(r.bits(5))+1
	s.clear = byte(r.bits(5))
	if s.Kind > Hybrid || s.Needed < MinNeeded || s.Needed > s.Total || s.Total > MaxShares || s.Number > s.Total ||
		len(symbols) != fixedSymbols+10*levels(s.Total) {
		return nil, fmt.Errorf("numbers that do not fit together: %w", ErrForged)
	}
	r.bytes(s.Fingerprint[:])
	zero := r.bits(1)
	s.root = digest(r.bits(digestBits))
	value, err := secret.New(32)
	if err != nil {
		return nil, err
	}
	s.value = value
	value.Bytes()[31] = byte(r.bits(7))
	for i := 30; i >= 0; i-- {
		value.Bytes()[i] = byte(r.bits(8))
	}
	for range levels(s.Total) {
		s.path = append(s.path, digest(r.bits(digestBits)))
	}
	if zero != 0 || s.climb() != s.root {
		s.Wipe()
		return nil, ErrForged
	}
	return s, nil
}
