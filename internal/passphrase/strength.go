// SPDX-License-Identifier: Apache-2.0

// Package passphrase refuses passphrases that are guessed sooner than Argon2id helps.
//
// The measure is deliberately simple, and wrong on the safe side for what looks like words. It goes through the text once: what continues something
// earlier, a keyboard row, a sequence such as 1234 or a word of the short list that every guesser starts with, counts 4 bits as a whole, however long.
// Of the rest a letter among three or more letters counts 2.3 bits, which is what letters of English text and of random dictionary words have; any
// other character counts by the size of its class: 26 letters of a case, 10 digits, 33 others.
//
// The floor is 50 bits. At a guess a second and core, which the Argon2id of a key slot costs, that is 18 million years of a core on average. Five random
// words reach it, and so do eleven random characters. There is no upper case, digit or symbol that anybody must use.
package passphrase

import (
	"bytes"
	"fmt"
	"math"

	"github.com/voluks/voluks/internal/secret"
)

// Floor is how many bits a passphrase needs at least.
const Floor = 50

// A WeakError is a passphrase below the floor. It does not quote it.
type WeakError struct{ Bits int }

// Error says how far it falls short, and what would do.
func (e *WeakError) Error() string {
	if e.Bits == 0 {
		return "the passphrase is empty"
	}
	return fmt.Sprintf("the passphrase is too easily guessed: about %d bits, at least %d are needed; five random words do, or twelve random letters and digits", e.Bits, Floor)
}

// Check returns a *WeakError for a passphrase below the floor. The passphrase is borrowed.
func Check(k *secret.Key) error {
	if k == nil || k.Len() == 0 {
		return &WeakError{}
	}
	if bits := Bits(k); bits < Floor {
		return &WeakError{Bits: max(1, int(bits))}
	}
	return nil
}

const (
	known      = 4.0 // bits of anything that is taken from elsewhere
	wordLetter = 2.3
	least      = 3 // bytes that are taken from elsewhere at least
)

// guessed are what guessers try first: rows of keyboards, and words of which people make passphrases. Both directions count.
const guessed = "qwertyuiop asdfghjkl zxcvbnm qwertz azerty 1q2w3e4r5t6y7u8i9o0p qazwsxedcrfvtgbyhnujmikolp " +
	"password passwort passphrase letmein welcome iloveyou monkey dragon master admin root secret login changeme default " +
	"linux voluks docker server database postgres redis backup correct horse battery staple !@#$%^&*()"

// Bits estimates how many bits it takes to guess a passphrase. It keeps nothing of it.
func Bits(k *secret.Key) float64 {
	text, err := secret.New(max(1, k.Len())) // in lower case
	if err != nil {
		return 0
	}
	defer text.Wipe()
	raw, b := k.Bytes(), text.Bytes()
	for i, c := range raw {
		if b[i] = c; c >= 'A' && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	bits := 0.0
	for at := 0; at < len(raw); {
		if n := taken(b, at); n >= least {
			bits += known
			at += n
			continue
		}
		bits += fresh(raw, at)
		at++
	}
	return bits
}

// taken is how many bytes from at on are from elsewhere: a sequence, an earlier part, or what is guessed first.
func taken(b []byte, at int) int {
	best := sequence(b[at:])
	for from := range at {
		best = max(best, common(b[from:at], b[at:]))
	}
	for from := range guessed {
		word, _, _ := bytes.Cut([]byte(guessed[from:]), []byte(" "))
		best = max(best, common(word, b[at:]), backwards(guessed[:from+1], b[at:]))
	}
	return best
}

// sequence is the length of the run with equal steps of at most one that b begins with.
func sequence(b []byte) int {
	if len(b) < 2 {
		return len(b)
	}
	step := int(b[1]) - int(b[0])
	if step < -1 || step > 1 {
		return 1
	}
	n := 2
	for n < len(b) && int(b[n])-int(b[n-1]) == step {
		n++
	}
	return n
}

func common(a, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

func backwards(a string, b []byte) int {
	n := 0
	for n < len(a) && n < len(b) && a[len(a)-1-n] == b[n] && b[n] != ' ' {
		n++
	}
	return n
}

// fresh is what one character counts.
func fresh(b []byte, at int) float64 {
	c := b[at]
	switch {
	case letter(c):
		run := 1
		for i := at - 1; i >= 0 && letter(b[i]); i-- {
			run++
		}
		for i := at + 1; i < len(b) && letter(b[i]); i++ {
			run++
		}
		if run >= 3 {
			return wordLetter
		}
		return math.Log2(26)
	case bytes.IndexByte([]byte("0123456789"), c) >= 0:
		return math.Log2(10)
	case c == ' ' || c == '-' || c == '_' || c == '.':
		return 1 // between words
	case c < 0x80:
		return math.Log2(33)
	}
	return wordLetter // a byte of a letter that takes two or more
}

func letter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
