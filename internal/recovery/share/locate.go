// SPDX-License-Identifier: Apache-2.0

package share

import (
	"fmt"
	"strings"

	"github.com/voluks/voluks/internal/secret"
)

// A TypoError says what is wrong with the text of a share, and where if that can be told. It is an ErrMistyped.
type TypoError struct {
	What  string // is wrong
	Group int    // from 1; 0: unknown
	Char  int    // in the group, from 1; 0: unknown
}

// Error names the place by group, and by line as the share is printed.
func (e *TypoError) Error() string {
	var b strings.Builder
	b.WriteString(ErrMistyped.Error())
	if e.Group > 0 {
		fmt.Fprintf(&b, " in group %d (line %d, group %d of the line)", e.Group, (e.Group-1)/groupsPerLine+1, (e.Group-1)%groupsPerLine+1)
	}
	if e.Char > 0 {
		fmt.Fprintf(&b, ", character %d", e.Char)
	}
	return b.String() + ": " + e.What
}

// Is makes every TypoError an ErrMistyped.
func (e *TypoError) Is(target error) bool { return target == ErrMistyped }

func typoAt(position int, what string) *TypoError {
	return &TypoError{What: what, Group: position/groupSize + 1, Char: position%groupSize + 1}
}

// locate finds the one slip of the hand that explains symbols whose checksum is wrong. It says where, not what would be right: a guess that fits the
// checksum must not be typed without a look at the paper.
func locate(symbols []symbol) error {
	room, err := secret.New(max(len(symbols), maxSymbols) + 2)
	if err != nil {
		return err
	}
	defer room.Wipe()
	// A text much longer or shorter than any share is no share with a slip in it, and trying would cost.
	if n := len(symbols); n < fixedSymbols+10-1 || n > maxSymbols+1 {
		return lengthError(n)
	}
	if !printedLength(len(symbols)) {
		if at, ok := findExtra(symbols, room.Bytes()); ok {
			return typoAt(at, "one character too many")
		}
		if at, ok := findMissing(symbols, room.Bytes()); ok {
			return typoAt(at, "one character is missing")
		}
		return lengthError(len(symbols))
	}
	try := room.Bytes()[:len(symbols)]
	copy(try, symbols)
	if at, ok := findWrong(try); ok {
		return typoAt(at, "this is not the character that was printed")
	}
	if at, ok := findSwapped(try); ok {
		return typoAt(at, "this character and the next are exchanged")
	}
	return &TypoError{What: "the checksum does not match, and more than one character is wrong"}
}

func printedLength(n int) bool {
	return n > fixedSymbols && n <= maxSymbols && (n-fixedSymbols)%10 == 0
}

func lengthError(n int) error {
	return &TypoError{What: fmt.Sprintf("%d characters; a share has %d, %d, %d or %d", n, fixedSymbols+10, fixedSymbols+20, fixedSymbols+30, maxSymbols)}
}

// findWrong uses that the checksum is linear: one wrong symbol shifts it by something that depends on place and difference alone, and differently for each.
func findWrong(symbols []symbol) (int, bool) {
	shift := polymod(checksumWord, symbols) ^ bech32m
	for difference := uint32(1); difference < 32; difference++ {
		effect := difference
		for i := len(symbols) - 1; i >= 0; i-- {
			if effect == shift {
				return i, true
			}
			effect = step(effect, 0)
		}
	}
	return 0, false
}

func findSwapped(try []symbol) (int, bool) {
	for i := range len(try) - 1 {
		try[i], try[i+1] = try[i+1], try[i]
		if sound(try) {
			return i, true
		}
		try[i], try[i+1] = try[i+1], try[i]
	}
	return 0, false
}

func findExtra(symbols, room []symbol) (int, bool) {
	if !printedLength(len(symbols) - 1) {
		return 0, false
	}
	try := room[:len(symbols)-1]
	copy(try, symbols[1:])
	for i := range symbols {
		if sound(try) {
			return i, true
		}
		if i < len(try) {
			try[i] = symbols[i]
		}
	}
	return 0, false
}

func findMissing(symbols, room []symbol) (int, bool) {
	if !printedLength(len(symbols) + 1) {
		return 0, false
	}
	try := room[:len(symbols)+1]
	copy(try[1:], symbols)
	for i := range try {
		try[i] = 0
		if at, ok := findWrong(try); sound(try) || ok && at == i {
			return i, true
		}
		if i < len(symbols) {
			try[i] = symbols[i]
		}
	}
	return 0, false
}
