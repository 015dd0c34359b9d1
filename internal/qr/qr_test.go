// SPDX-License-Identifier: Apache-2.0

package qr

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/testenv"
)

var update = flag.Bool("update", false, "write testdata anew; TestAgainstZbar must pass on it")

// What voluks shows: a recovery key, shares of three lengths, and the ends of the range.
var contents = map[string]string{
	"key":      "nbvgjcfr-ifnctike-vdrvlkgv-deiidfnn-tvncucje-elglrhjk-furhkhur-jnvggcuk",
	"share95":  strings.Repeat("9PZP2DQY658MLUJAWUH", 5),
	"share105": strings.Repeat("9PZP2DQY658MLUJAWUH4X", 5),
	"share125": strings.Repeat("YZYP3NYTVFFZP0Y7F2TTDJQJT", 5),
	"one":      "A",
	"digits":   "0123456789",
	"long":     strings.Repeat("a line of text, ", 60),
}

func show(t *testing.T, content string, style Style) string {
	t.Helper()
	k, err := secret.Move([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	defer k.Wipe()
	var b bytes.Buffer
	if err := Write(&b, k, style); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// look reads a terminal's picture back into modules, true for dark, with the terminal's colours as Write assumes them.
func look(t *testing.T, text string, style Style) [][]bool {
	t.Helper()
	var rows [][]bool
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if style == Colored {
			inner, found := strings.CutPrefix(line, black)
			inner, ended := strings.CutSuffix(inner, reset)
			if !found || !ended {
				t.Fatalf("a line without its colours: %q", line)
			}
			line = inner
		}
		var up, low []bool
		for _, c := range line {
			u, l := c == '█' || c == '▀', c == '█' || c == '▄'
			if style == Plain {
				u, l = !u, !l
			}
			up, low = append(up, u), append(low, l)
		}
		rows = append(rows, up, low)
	}
	return rows
}

func TestGolden(t *testing.T) {
	for name, content := range contents {
		file := filepath.Join("testdata", name+".txt")
		got := show(t, content, Plain)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got != string(want) {
			t.Errorf("%s is another code than the one that was verified:\n%s", name, got)
		}
	}
}

func TestFitsATerminal(t *testing.T) {
	for _, name := range []string{"key", "share95", "share105", "share125"} {
		for _, style := range []Style{Plain, Colored} {
			text := strings.NewReplacer(black, "", reset, "").Replace(show(t, contents[name], style))
			lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
			width := utf8.RuneCountInString(lines[0])
			if len(lines) > 23 || width > 79 {
				t.Errorf("%s has %d lines of %d columns", name, len(lines), width)
			}
			for _, l := range lines {
				if utf8.RuneCountInString(l) != width {
					t.Fatalf("%s has lines of different length:\n%s", name, text)
				}
			}
		}
	}
}

// Both styles show the same modules, and the quiet zone is light.
func TestStyles(t *testing.T) {
	for name, content := range contents {
		plain, colored := look(t, show(t, content, Plain), Plain), look(t, show(t, content, Colored), Colored)
		side := len(plain[0])
		for y := range side {
			for x := range side {
				if plain[y][x] != colored[y][x] {
					t.Fatalf("%s: the styles differ at %d,%d", name, x, y)
				}
				if edge := min(x, y, side-1-x, side-1-y); edge < quiet && plain[y][x] {
					t.Fatalf("%s: dark at %d,%d in the quiet zone", name, x, y)
				}
			}
		}
	}
}

func TestTooLong(t *testing.T) {
	k, err := secret.New(3000)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Wipe()
	var b bytes.Buffer
	if err := Write(&b, k, Plain); err == nil || b.Len() > 0 {
		t.Errorf("%d bytes written, error %v", b.Len(), err)
	}
}

// The picture, as a camera sees it, is read by a program that has nothing to do with the one that made it.
func TestAgainstZbar(t *testing.T) {
	if _, err := exec.LookPath("zbarimg"); err != nil {
		testenv.Missing(t, "tools", err.Error())
	}
	for name, content := range contents {
		for _, style := range []Style{Plain, Colored} {
			if got := read(t, look(t, show(t, content, style), style)); got != content {
				t.Errorf("%s, style %d: read as %q", name, style, got)
			}
		}
	}
}

func read(t *testing.T, modules [][]bool) string {
	t.Helper()
	const scale = 4
	side := len(modules[0])
	var picture bytes.Buffer
	fmt.Fprintf(&picture, "P5 %d %d 255\n", side*scale, side*scale)
	for y := range side * scale {
		for x := range side * scale {
			if modules[y/scale][x/scale] {
				picture.WriteByte(0)
			} else {
				picture.WriteByte(255)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "code.pgm")
	if err := os.WriteFile(file, picture.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "zbarimg", "--quiet", "--raw", "-Sdisable", "-Sqrcode.enable", file).Output()
	if err != nil {
		t.Fatalf("zbarimg: %v", err)
	}
	return strings.TrimSuffix(string(out), "\n")
}
