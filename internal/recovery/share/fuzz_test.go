// SPDX-License-Identifier: Apache-2.0

package share

import (
	"bytes"
	"testing"
)

// Whatever is typed, Parse does not panic; what it accepts, it writes the same way again; what it refuses leaves no share.
func FuzzParse(f *testing.F) {
	f.Add([]byte("# voluks recovery share 1 of 3\nYQPPR 4G7XA"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Parse(text)
		check(t, s, err)
	})
}

// The same behind the checksum, which a fuzzer would hardly ever get right.
func FuzzDecode(f *testing.F) {
	f.Add(bytes.Repeat([]byte{4, 1, 2, 0}, 25))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) <= checksumLength || len(raw) > 2*maxSymbols {
			return
		}
		for i := range raw {
			raw[i] &= 31
		}
		seal(raw)
		s, err := decode(raw)
		defer check(t, s, err)
		if err == nil {
			again, err := s.symbols()
			if err != nil {
				t.Fatal(err)
			}
			defer again.Wipe()
			if !bytes.Equal(again.Bytes(), raw) {
				t.Error("one share can be written in two ways")
			}
		}
	})
}

// check asserts the laws of parsing, and wipes the share.
func check(t *testing.T, s *Share, err error) {
	defer s.Wipe()
	if err != nil {
		if s != nil {
			t.Fatalf("a share and an error: %v", err)
		}
		return
	}
	again := parse(t, textOf(t, s))
	if again.String() != s.String() || !again.value.Equal(s.value) {
		t.Error("written and read again it is another share")
	}
}
