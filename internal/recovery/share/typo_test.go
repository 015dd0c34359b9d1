// SPDX-License-Identifier: Apache-2.0

package share

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// typo asserts that text is refused as mistyped, and where.
func typo(t *testing.T, text string, group, char int) {
	t.Helper()
	s, err := Parse([]byte(text))
	var e *TypoError
	if !errors.As(err, &e) || !errors.Is(err, ErrMistyped) || s != nil {
		t.Fatalf("share %v, error %v", s, err)
	}
	if group > 0 && (e.Group != group || char > 0 && e.Char != char) {
		t.Fatalf("in group %d, character %d: reported as %v", group, char, err)
	}
}

// Every single wrong character, all 31 of them at every place, is refused, and its place named.
func TestEverySingleTypo(t *testing.T) {
	identity, _ := newIdentity(t, X25519)
	for _, c := range [][2]int{{2, 2}, {3, 5}, {5, 16}} {
		text := []byte(strings.Join(strings.Fields(textOf(t, splitFor(t, identity, c[0], c[1])[1])), ""))
		for i, was := range text {
			for _, wrong := range []byte(alphabet) {
				if wrong == was {
					continue
				}
				text[i] = wrong
				typo(t, string(text), i/5+1, i%5+1)
			}
			text[i] = was
		}
		parse(t, string(text))
	}
}

func TestOtherSlips(t *testing.T) {
	identity, _ := newIdentity(t, X25519)
	text := strings.Join(strings.Fields(textOf(t, splitFor(t, identity, 3, 5)[4])), "")
	for i := range len(text) {
		// The place of a missing or doubled character among equal ones cannot be told: it is that of the first.
		first := i
		for first > 0 && text[first-1] == text[i] {
			first--
		}
		typo(t, text[:i]+text[i+1:], first/5+1, first%5+1)
		typo(t, text[:i+1]+text[i:], 0, 0)
		if i+1 < len(text) && text[i] != text[i+1] {
			typo(t, text[:i]+text[i+1:i+2]+text[i:i+1]+text[i+2:], i/5+1, 0)
		}
		typo(t, text[:i]+"!"+text[i+1:], i/5+1, i%5+1)
	}
	for _, wrong := range []string{"", " \n", "# only a comment", text[:50], text + text, text[:len(text)-2], strings.Repeat("Q", 115), strings.Repeat("x", maxInput+1), text[5:10] + text[:5] + text[10:]} {
		typo(t, wrong, 0, 0)
	}
	if _, err := Parse([]byte(text[:7] + "!" + text[8:])); !strings.Contains(err.Error(), "group 2 (line 1, group 2 of the line), character 3") {
		t.Errorf("the place reads: %v", err)
	}
}

// What people do to text on its way from paper does no harm.
func TestTolerance(t *testing.T) {
	identity, _ := newIdentity(t, X25519)
	for _, s := range splitFor(t, identity, 2, 3) {
		want := textOf(t, s)
		bare := strings.Join(strings.Fields(want), "")
		if line, err := s.Line(); err != nil || string(line.Bytes()) != bare {
			t.Errorf("in one line: %v", err)
		}
		page, err := s.Page()
		if err != nil {
			t.Fatal(err)
		}
		defer page.Wipe()
		for name, text := range map[string]string{
			"printed":   string(page.Bytes()),
			"lower":     strings.ToLower(want),
			"bare":      bare,
			"dashes":    strings.ReplaceAll(want, " ", "-"),
			"crlf":      strings.ReplaceAll(want, "\n", "\r\n") + "\r\n",
			"lookalike": strings.NewReplacer("0", "O", "L", "1", "8", "b").Replace(bare),
			"other":     strings.NewReplacer("0", "o", "L", "i").Replace(bare),
			"page":      "# voluks recovery share\n\t# of an identity\n" + want + "\n  # end\n",
		} {
			if got := textOf(t, parse(t, text)); got != want {
				t.Errorf("%s: read as\n%s\nwant\n%s", name, got, want)
			}
		}
	}
}

// The code has no two single errors with the same effect (so the place is unique) and no three that cancel out (so all of two and three are found).
func TestCodeDistance(t *testing.T) {
	single := map[uint32]bool{}
	var all []uint32
	var place []int
	for difference := uint32(1); difference < 32; difference++ {
		effect := difference
		for i := range maxSymbols {
			if effect == 0 || single[effect] {
				t.Fatalf("an error at %d from the end has no effect of its own", i)
			}
			single[effect] = true
			all, place = append(all, effect), append(place, i)
			effect = step(effect, 0)
		}
	}
	for i, a := range all {
		for j, b := range all[:i] {
			if place[i] != place[j] && single[a^b] {
				t.Fatalf("errors at %d and %d from the end look like one error", place[i], place[j])
			}
		}
	}
}

func TestVersionAndNumbers(t *testing.T) {
	identity, _ := newIdentity(t, X25519)
	good := splitFor(t, identity, 2, 3)[0]
	for _, c := range []struct {
		name   string
		change func([]symbol)
		want   error
	}{
		{"version 2", func(b []symbol) { b[0] = 2<<2 | b[0]&3 }, ErrVersion},
		{"version 0", func(b []symbol) { b[0] &= 3 }, ErrVersion},
		{"kind", func(b []symbol) { b[0] = b[0]&^3 | 2 }, ErrForged},
		{"one is enough", func(b []symbol) { b[1] = 0 }, ErrForged},
		{"more needed than there are", func(b []symbol) { b[1] = 3 }, ErrForged},
		{"31 shares", func(b []symbol) { b[2] = 30 }, ErrForged},
		{"number 4 of 3", func(b []symbol) { b[3] = 3 }, ErrForged},
		{"another number", func(b []symbol) { b[3] = 1 }, ErrForged},
		{"fewer needed", func(b []symbol) { b[1], b[2] = 1, 3 }, ErrForged},
		{"clear bits", func(b []symbol) { b[4] ^= 8 }, ErrForged},
		{"fingerprint", func(b []symbol) { b[7] ^= 1 }, ErrForged},
		{"spare bit", func(b []symbol) { b[17] ^= 1 }, ErrForged},
		{"root", func(b []symbol) { b[20] ^= 1 }, ErrForged},
		{"value", func(b []symbol) { b[60] ^= 1 }, ErrForged},
		{"path", func(b []symbol) { b[80] ^= 1 }, ErrForged},
		{"other kind", func(b []symbol) { b[0] ^= 1 }, ErrForged},
	} {
		k, err := good.symbols()
		if err != nil {
			t.Fatal(err)
		}
		defer k.Wipe()
		c.change(k.Bytes())
		seal(k.Bytes())
		s, err := Parse(spell(k.Bytes()))
		if !errors.Is(err, c.want) || s != nil {
			t.Errorf("%s: share %v, error %v, want %v", c.name, s, err, c.want)
		}
	}
}

func spell(symbols []symbol) []byte {
	var b []byte
	for _, v := range symbols {
		b = fmt.Appendf(b, "%c", alphabet[v])
	}
	return b
}
