// SPDX-License-Identifier: Apache-2.0

package share

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/voluks/voluks/internal/secret"
)

// An identity for tests, and its recipient.
func newIdentity(t testing.TB, kind Kind) (*secret.Key, string) {
	t.Helper()
	var text, recipient string
	if kind == Hybrid {
		i, err := age.GenerateHybridIdentity()
		if err != nil {
			t.Fatal(err)
		}
		text, recipient = i.String(), i.Recipient().String()
	} else {
		i, err := age.GenerateX25519Identity()
		if err != nil {
			t.Fatal(err)
		}
		text, recipient = i.String(), i.Recipient().String()
	}
	return key(t, text), recipient
}

func key(t testing.TB, text string) *secret.Key {
	t.Helper()
	k, err := secret.Move([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Wipe)
	return k
}

func splitFor(t testing.TB, identity *secret.Key, needed, total int) []*Share {
	t.Helper()
	shares, err := Split(identity, needed, total)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { WipeAll(shares) })
	return shares
}

func textOf(t testing.TB, s *Share) string {
	t.Helper()
	k, err := s.Text()
	if err != nil {
		t.Fatal(err)
	}
	defer k.Wipe()
	return string(k.Bytes())
}

func parse(t testing.TB, text string) *Share {
	t.Helper()
	s, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Wipe)
	return s
}

// Every subset of k shares, typed again from their text, gives the very identity back; every smaller one is refused.
func TestEverySubset(t *testing.T) {
	for _, kind := range []Kind{X25519, Hybrid} {
		identity, recipient := newIdentity(t, kind)
		for _, c := range [][2]int{{2, 2}, {2, 3}, {3, 3}, {3, 5}, {4, 6}, {2, 9}} {
			t.Run(fmt.Sprintf("%s/%d of %d", kind, c[0], c[1]), func(t *testing.T) {
				var typed []*Share
				for _, s := range splitFor(t, identity, c[0], c[1]) {
					typed = append(typed, parse(t, textOf(t, s)))
				}
				for mask := range 1 << c[1] {
					var some []*Share
					for i, s := range typed {
						if mask>>i&1 == 1 {
							some = append(some, s)
						}
					}
					combineSome(t, some, c[0], identity, recipient)
				}
			})
		}
	}
}

func combineSome(t *testing.T, some []*Share, needed int, identity *secret.Key, recipient string) {
	t.Helper()
	got, gotRecipient, err := Combine(some)
	defer got.Wipe()
	if len(some) < needed {
		var few *TooFewError
		if !errors.As(err, &few) || few.Have != len(some) || got != nil || gotRecipient.String() != "" {
			t.Fatalf("%d of %d needed: identity %v, %q, error %v", len(some), needed, got, gotRecipient, err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if !got.Equal(identity) || gotRecipient.String() != recipient {
		t.Fatalf("another identity came back, recipient %q, want %q", gotRecipient, recipient)
	}
}

// Ends of the range: the bits that are clear and those at the top of the scalar.
func TestExtremeIdentities(t *testing.T) {
	for _, fill := range []byte{0x00, 0xff, 0x07, 0xf8, 0xc0} {
		raw, err := secret.New(identityBytes)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Wipe()
		for i := range raw.Bytes() {
			raw.Bytes()[i] = fill
		}
		text, err := identityText(X25519, raw)
		if err != nil {
			t.Fatal(err)
		}
		defer text.Wipe()
		shares := splitFor(t, text, 2, 2)
		got, _, err := Combine(shares)
		if err != nil {
			t.Fatalf("filled with %#x: %v", fill, err)
		}
		if !got.Equal(text) {
			t.Errorf("filled with %#x: another identity came back", fill)
		}
		got.Wipe()
	}
}

func TestMaximum(t *testing.T) {
	identity, _ := newIdentity(t, X25519)
	shares := splitFor(t, identity, MaxShares, MaxShares)
	got, _, err := Combine(shares)
	if err != nil {
		t.Fatal(err)
	}
	got.Wipe()
	if n := len(strings.Join(strings.Fields(textOf(t, shares[15])), "")); n != maxSymbols {
		t.Errorf("the longest share has %d characters, want %d", n, maxSymbols)
	}
	for _, c := range [][2]int{{1, 3}, {0, 3}, {4, 3}, {2, MaxShares + 1}, {-1, -1}} {
		if s, err := Split(identity, c[0], c[1]); err == nil || s != nil {
			t.Errorf("a splitting %d of %d was made", c[0], c[1])
		}
	}
}

func TestSplitTakesAnIdentityFile(t *testing.T) {
	identity, recipient := newIdentity(t, X25519)
	line := string(identity.Bytes())
	file := key(t, "# created: 2026-01-01\n# public key: "+recipient+"\n\n  "+strings.ToLower(line)+" \r\n")
	shares := splitFor(t, file, 2, 3)
	got, _, err := Combine(shares[1:])
	if err != nil {
		t.Fatal(err)
	}
	defer got.Wipe()
	if !got.Equal(identity) {
		t.Error("another identity came back")
	}

	flipped := []byte(line)
	flipped[30] = alphabet[(strings.IndexByte(alphabet, flipped[30])+1)%32]
	for name, text := range map[string]string{
		"empty": "\n", "comment": "# x", "two": line + "\n" + line, "recipient": recipient, "cut": line[:len(line)-1], "long": line + "Q",
		"mistyped": string(flipped), "word": "AGE-SECRET-KEY-1", "plugin": "AGE-PLUGIN-YUBIKEY-1QQQQ", "lookalike": strings.Replace(line, "L", "1", 2),
	} {
		if name == "lookalike" && !strings.Contains(line, "L") {
			continue
		}
		s, err := Split(key(t, text), 2, 3)
		if !errors.Is(err, ErrIdentity) || s != nil {
			t.Errorf("%s: error %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), line[20:40]) {
			t.Errorf("%s: the error quotes the key", name)
		}
	}
}

// The secrets are in locked memory and all of it is given back.
func TestNothingStaysLocked(t *testing.T) {
	identity, _ := newIdentity(t, Hybrid)
	before := locked(t)
	for range 3 {
		shares, err := Split(identity, 3, 5)
		if err != nil {
			t.Fatal(err)
		}
		text, err := shares[0].Text()
		if err != nil {
			t.Fatal(err)
		}
		broken := append([]byte(nil), text.Bytes()...)
		broken[7] ^= 1
		if _, err := Parse(broken); err == nil {
			t.Fatal("a broken share was accepted")
		}
		if _, _, err := Combine(shares[:2]); err == nil {
			t.Fatal("two shares were enough")
		}
		got, _, err := Combine(shares)
		if err != nil {
			t.Fatal(err)
		}
		got.Wipe()
		text.Wipe()
		WipeAll(shares)
	}
	if after := locked(t); after != before {
		t.Errorf("locked memory went from %s to %s", before, after)
	}
}

func locked(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "VmLck:")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

func TestPrintedShareHasNoSecret(t *testing.T) {
	identity, _ := newIdentity(t, X25519)
	s := splitFor(t, identity, 2, 3)[1]
	said := fmt.Sprintf("%v %+v %s", s, s, s)
	if !strings.Contains(said, "share 2 of 3 (any 2)") || !strings.Contains(said, s.Fingerprint.String()) {
		t.Errorf("it says %q", said)
	}
	chars := strings.Join(strings.Fields(textOf(t, s)), "")
	if secretPart := chars[28:79]; strings.Contains(said, secretPart[:10]) {
		t.Error("it prints the value")
	}
}

func TestLevels(t *testing.T) {
	for n := MinNeeded; n <= MaxShares; n++ {
		if l := levels(n); 1<<l < n || 1<<(l-1) >= n || l > bits.Len(MaxShares) {
			t.Errorf("%d shares in %d levels", n, l)
		}
	}
}
