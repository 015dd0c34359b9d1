// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/recovery/share"
)

var shareText = `(?m)^((?:[0-9A-Z]{5} ?\r?\n?){15,})`

// showsShares reads the shares off the screen as they come, and types the end of each.
func (p *person) showsShares(total int) []string {
	p.t.Helper()
	var texts []string
	for i := range total {
		seen := p.sees(`share ` + string(rune('1'+i)) + ` of ` + string(rune('0'+total)) + `\r?\n(?s:.*?)` + shareText + `(?s:.*)Share ` + string(rune('1'+i)) + ` of (?s:.*)characters: $`)
		text := strings.TrimSpace(seen[1])
		texts = append(texts, text)
		p.types(strings.ToLower(text[len(text)-5:]))
	}
	return texts
}

// With --split the identity is never shown: the owners see a share each, and those give it back. F41
func TestInitSplit(t *testing.T) {
	p, e := terminal(t)
	status := background(e, "init", "--split", "2/3")
	texts := p.showsShares(3)
	if got := <-status; got != 0 {
		t.Fatalf("exit status %d:\n%s", got, p.seen.String())
	}
	p.sees(`(?s)(\x1b\[3J.*){4}`) // cleared before each share and after the last
	screen := p.text()
	if strings.Contains(screen, "AGE-SECRET-KEY") {
		t.Error("the identity was shown")
	}
	if cleared := strings.Count(screen, "\x1b[3J"); cleared != 4 {
		t.Errorf("the screen was cleared %d times", cleared)
	}
	var shares []*share.Share
	for _, text := range texts[1:] {
		s, err := share.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Wipe()
		shares = append(shares, s)
	}
	identity, recipient, err := share.Combine(shares)
	if err != nil {
		t.Fatal(err)
	}
	identity.Wipe()
	cfg, err := config.Load(config.PathsUnder(e.root))
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Recovery; !got.Confirmed || len(got.Recipients) != 1 || got.Recipients[0] != recipient.String() {
		t.Errorf("the configuration has %+v, want the recipient of what was shown", got)
	}
	err = filepath.WalkDir(e.root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		for _, text := range texts {
			if bytes.Contains(b, []byte(text[:5])) && bytes.Contains(b, []byte(text[30:35])) {
				t.Errorf("%s holds a share", path)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A person types an identity, gets shares with QR codes, and types them back, with slips that are named at once.
func TestSplitAndCombineOnATerminal(t *testing.T) {
	const identity = "AGE-SECRET-KEY-18ARAHZCHMAN2Z9A5KMAANVUMNJK0KMUX92LDV6W4GXLW9K9KZLFS3SAYY3"
	p, e := terminal(t)
	status := background(e, "recovery", "split", "--qr", "2/3")
	p.sees(`The recovery identity \(AGE-SECRET-KEY-...\): $`)
	p.types(identity)
	texts := p.showsShares(3)
	p.sees(`There are 3 shares of the identity 3ac5768c1a02b241, splitting .*; any 2 give it back`)
	if got := <-status; got != 0 {
		t.Fatalf("exit status %d", got)
	}
	if n := strings.Count(p.seen.String(), "▀"); n < 300 {
		t.Errorf("no QR code: only %d half blocks", n)
	}

	p, e = terminal(t)
	status = background(e, "recovery", "combine")
	give := func(text string) {
		for line := range strings.Lines(text) {
			p.types(strings.TrimSpace(line))
		}
		p.types("")
	}
	p.sees(`Type a share; .* An empty line ends it\.\r?\n$`)
	wrong := "Q"
	if texts[2][8:9] == "Q" {
		wrong = "P"
	}
	give(texts[2][:8] + wrong + texts[2][9:])
	p.sees(`Not taken: read a share: mistyped in group 2 \(line 1, group 2 of the line\), character 3`)
	give(strings.ToLower(strings.ReplaceAll(texts[2], " ", "-")))
	p.sees(`Good: share 3 of 3 of the identity 3ac5768c1a02b241\.\r?\n\r?\n2 of 2\.`)
	give(texts[2])
	p.sees(`Not taken: share 3: given twice\.`)
	give(texts[0])
	p.sees(`This is the recovery identity:\r?\n\r?\n    ` + identity + `\r?\n`)
	if got := <-status; got != 0 {
		t.Fatalf("exit status %d", got)
	}
}

func TestShareNotConfirmed(t *testing.T) {
	p, e := terminal(t)
	status := background(e, "init", "--split", "2/3")
	p.sees(shareText + `(?s:.*)characters: $`)
	p.types("")
	if got := <-status; got != exitRefused {
		t.Errorf("exit status %d", got)
	}
	p.sees(regexp.QuoteMeta(cleared) + `(?s:.*)not confirmed that share 1 is kept`)
	if left, _ := filepath.Glob(filepath.Join(e.root, "*")); len(left) > 0 {
		t.Errorf("made although it was not confirmed: %v", left)
	}
}
