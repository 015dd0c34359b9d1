// SPDX-License-Identifier: Apache-2.0

package share

import (
	"bytes"
	"fmt"

	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/secret"
)

const identityBytes = 32 // of both kinds: an X25519 scalar, or the seed of a hybrid key

// The word of an identity's bech32 (BIP 173), by kind. It is written in upper case and counts in the checksum in lower case.
var identityWord = [...]string{X25519: "age-secret-key-", Hybrid: "age-secret-key-pq-"}

const bech32Checksum = 1 // age uses the older constant

// parseIdentity takes the one identity out of a file such as age-keygen writes, comments and all.
func parseIdentity(text []byte) (Kind, *secret.Key, error) {
	var line []byte
	for l := range bytes.Lines(text) {
		switch l = bytes.TrimSpace(l); {
		case len(l) == 0 || l[0] == '#':
		case line != nil:
			return 0, nil, fmt.Errorf("several lines: %w", ErrIdentity)
		default:
			line = l
		}
	}
	for kind, word := range identityWord {
		// The longer word of the hybrid kind does not begin with the shorter one and its "1".
		if len(line) > len(word) && bytes.EqualFold(line[:len(word)], []byte(word)) && line[len(word)] == '1' {
			raw, err := identityRaw(Kind(kind), line[len(word)+1:])
			return Kind(kind), raw, err
		}
	}
	return 0, nil, ErrIdentity
}

// identityRaw decodes the part behind the "1" of bech32.
func identityRaw(kind Kind, data []byte) (*secret.Key, error) {
	if len(data) != identitySymbols+checksumLength {
		return nil, fmt.Errorf("%d characters of key: %w", len(data), ErrIdentity)
	}
	room, err := secret.New(len(data))
	if err != nil {
		return nil, err
	}
	defer room.Wipe()
	symbols := room.Bytes()
	for i, c := range data {
		// No tolerance here: age has none.
		v := bytes.IndexByte([]byte(alphabet), upper(c))
		if v < 0 {
			return nil, fmt.Errorf("a character that no identity has: %w", ErrIdentity)
		}
		symbols[i] = symbol(v)
	}
	if polymod(identityWord[kind], symbols) != bech32Checksum {
		return nil, fmt.Errorf("its checksum does not match: %w", ErrIdentity)
	}
	raw, err := secret.New(identityBytes)
	if err != nil {
		return nil, err
	}
	r := &reader{from: symbols}
	if r.bytes(raw.Bytes()); r.bits(identitySymbols*5-identityBytes*8) != 0 {
		raw.Wipe()
		return nil, fmt.Errorf("its padding is not zero: %w", ErrIdentity)
	}
	return raw, nil
}

const identitySymbols = (identityBytes*8 + 4) / 5

// identityText is the inverse: the line that age reads, without a line end. The caller wipes it.
func identityText(kind Kind, raw *secret.Key) (*secret.Key, error) {
	room, err := secret.New(identitySymbols + checksumLength)
	if err != nil {
		return nil, err
	}
	defer room.Wipe()
	symbols, word := room.Bytes(), identityWord[kind]
	(&writer{to: symbols}).bytes(raw.Bytes())
	sum := polymod(word, symbols) ^ bech32Checksum
	for i := range checksumLength {
		symbols[identitySymbols+i] = symbol(sum >> (5 * (checksumLength - 1 - i)) & 31)
	}
	out, err := secret.New(len(word) + 1 + len(symbols))
	if err != nil {
		return nil, err
	}
	b := append(append(out.Bytes()[:0], bytes.ToUpper([]byte(word))...), '1')
	for _, v := range symbols {
		b = append(b, alphabet[v])
	}
	return out, nil
}

// recipientOf returns the public half.
func recipientOf(text *secret.Key) (recovery.Recipient, error) {
	identities, err := recovery.ParseIdentities(text)
	if err != nil {
		return recovery.Recipient{}, ErrIdentity
	}
	return identities[0].Recipient(), nil
}

func upper(c byte) byte {
	if 'a' <= c && c <= 'z' {
		return c + 'A' - 'a'
	}
	return c
}
