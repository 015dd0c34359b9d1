// SPDX-License-Identifier: Apache-2.0

package typable

import (
	"bytes"
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
)

// The recovery key that systemd 252 printed for a slot of its own.
const fromSystemd = "nbvgjcfr-ifnctike-vdrvlkgv-deiidfnn-tvncucje-elglrhjk-furhkhur-jnvggcuk"

func TestGenerate(t *testing.T) {
	form := regexp.MustCompile(`^([cbdefghijklnrtuv]{8}-){7}[cbdefghijklnrtuv]{8}$`)
	seen := map[string]bool{}
	letters := map[rune]bool{}
	for range 50 {
		k, err := Generate()
		if err != nil {
			t.Fatal(err)
		}
		text := string(k.Bytes())
		if !form.MatchString(text) || k.Len() != Length || seen[text] {
			t.Fatalf("%d bytes, form right: %v, again: %v", k.Len(), form.MatchString(text), seen[text])
		}
		seen[text] = true
		for _, c := range text {
			letters[c] = true
		}
		again, err := Parse(k.Bytes())
		if err != nil || !again.Equal(k) {
			t.Fatalf("its own text is not accepted: %v", err)
		}
		again.Wipe()
		k.Wipe()
	}
	if len(letters) != len(alphabet)+1 {
		t.Errorf("%d different characters in 50 keys, want all %d and the dash", len(letters), len(alphabet))
	}
}

func TestParse(t *testing.T) {
	bare := strings.ReplaceAll(fromSystemd, "-", "")
	for _, typed := range []string{
		fromSystemd, bare, strings.ToUpper(fromSystemd), " " + fromSystemd + "\r\n", strings.ReplaceAll(fromSystemd, "-", " "),
		strings.ReplaceAll(fromSystemd, "-", "\n"), strings.Join(strings.Split(bare, ""), " "),
	} {
		k, err := Parse([]byte(typed))
		if err != nil {
			t.Errorf("%q: %v", typed, err)
			continue
		}
		if string(k.Bytes()) != fromSystemd {
			t.Errorf("%q is read as %q", typed, k.Bytes())
		}
		k.Wipe()
	}
	for _, c := range []struct {
		typed       string
		group, char int
	}{
		{"", 0, 0}, {bare[1:], 0, 0}, {bare + "c", 0, 0}, {strings.Repeat("c", maxInput+1), 0, 0},
		{"x" + bare[1:], 1, 1}, {fromSystemd[:19] + "a" + fromSystemd[20:], 3, 2}, {bare[:63] + "\x00", 8, 8}, {fromSystemd[:9] + "–" + fromSystemd[9:], 2, 1},
	} {
		k, err := Parse([]byte(c.typed))
		var e *TypoError
		if k != nil || !errors.As(err, &e) || !errors.Is(err, ErrMistyped) || e.Group != c.group || e.Char != c.char {
			t.Errorf("%.80q: key %v, error %v", c.typed, k, err)
		}
		if err != nil && strings.Contains(err.Error(), bare[8:16]) {
			t.Errorf("the error quotes the key: %v", err)
		}
	}
}

func TestToken(t *testing.T) {
	if got, want := string(Token(7)), `{"type":"systemd-recovery","keyslots":["7"]}`; got != want {
		t.Errorf("token %s, want %s", got, want)
	}
	if !json.Valid(Token(0)) {
		t.Error("not JSON")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(fromSystemd))
	f.Fuzz(func(t *testing.T, typed []byte) {
		k, err := Parse(typed)
		if err != nil {
			if k != nil {
				t.Fatal("a key and an error")
			}
			return
		}
		defer k.Wipe()
		again, err := Parse(k.Bytes())
		if err != nil || !bytes.Equal(again.Bytes(), k.Bytes()) {
			t.Fatalf("the normal form is not accepted as itself: %v", err)
		}
		again.Wipe()
	})
}
