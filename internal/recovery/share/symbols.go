// SPDX-License-Identifier: Apache-2.0

package share

import "fmt"

// The alphabet of bech32 (BIP 173): no 1, B, I or O. Index is the five-bit value.
const alphabet = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L"

// A symbol is one character, five bits.
type symbol = byte

const notASymbol = 0xff

// values maps a byte of input to its symbol. Lower case is the same; a letter that the alphabet lacks stands for the one that it is mistaken for.
var values = func() (t [256]symbol) {
	for i := range t {
		t[i] = notASymbol
	}
	for v, c := range []byte(alphabet) {
		t[c] = symbol(v)
		t[lower(c)] = symbol(v)
	}
	for seen, meant := range map[byte]byte{'O': '0', 'I': 'L', '1': 'L', 'B': '8'} {
		t[seen] = t[meant]
		t[lower(seen)] = t[meant]
	}
	return t
}()

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// The checksum is that of bech32m (BIP 350), with this word as the human-readable part that is not written down. Its code finds every error of up to three characters
// at our length (a test counts), any other error but for one in 2^30.
const (
	checksumWord   = "volukshare"
	checksumLength = 6
	bech32m        = 0x2bc830a3
)

// step takes one more symbol into the checksum. No branch depends on the symbols: they are the secret.
func step(state uint32, v symbol) uint32 {
	top := state >> 25
	state = state&(1<<25-1)<<5 ^ uint32(v)
	for i, g := range [5]uint32{0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3} {
		state ^= g & -(top >> i & 1)
	}
	return state
}

func polymod(word string, symbols []symbol) uint32 {
	state := uint32(1)
	for _, c := range []byte(word) {
		state = step(state, c>>5)
	}
	state = step(state, 0)
	for _, c := range []byte(word) {
		state = step(state, c&31)
	}
	for _, v := range symbols {
		state = step(state, v)
	}
	return state
}

// sound says that the last six symbols are the checksum of those before.
func sound(symbols []symbol) bool {
	return len(symbols) > checksumLength && polymod(checksumWord, symbols) == bech32m
}

// seal writes the checksum into the last six symbols.
func seal(symbols []symbol) {
	tail := symbols[len(symbols)-checksumLength:]
	clear(tail)
	sum := polymod(checksumWord, symbols) ^ bech32m
	for i := range tail {
		tail[i] = symbol(sum >> (5 * (checksumLength - 1 - i)) & 31)
	}
}

// A writer puts numbers of any width into symbols, most significant bit first.
type writer struct {
	to  []symbol
	bit int
}

func (w *writer) bits(v uint64, n int) {
	for i := n - 1; i >= 0; i-- {
		at := w.bit
		w.to[at/5] |= symbol(v>>i&1) << (4 - at%5)
		w.bit++
	}
}

func (w *writer) bytes(b []byte) {
	for _, v := range b {
		w.bits(uint64(v), 8)
	}
}

// A reader is the inverse of a writer.
type reader struct {
	from []symbol
	bit  int
}

func (r *reader) bits(n int) uint64 {
	var v uint64
	for range n {
		v = v<<1 | uint64(r.from[r.bit/5]>>(4-r.bit%5)&1)
		r.bit++
	}
	return v
}

func (r *reader) bytes(b []byte) {
	for i := range b {
		b[i] = byte(r.bits(8))
	}
}

// A digest is 50 bits of SHA-256: ten symbols.
type digest uint64

const digestBits = 50

// String writes a digest as it stands in a share.
func (d digest) String() string {
	var out [10]byte
	for i := range out {
		out[i] = alphabet[d>>(45-5*i)&31]
	}
	return fmt.Sprintf("%s-%s", out[:5], out[5:])
}
