// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

func generated(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("SOURCE_DATE_EPOCH", "1795348800")
	if err := generate(newApp(newEnv()), dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Every command and every option that people are told of is in the manual, and nothing that roff would take for its own.
func TestManual(t *testing.T) {
	dir := generated(t)
	read := func(page string) string {
		b, err := os.ReadFile(filepath.Join(dir, "man1", page+".1"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	app := newApp(newEnv())
	main := read("voluks")
	if !strings.Contains(main, `"2026-11-22"`) {
		t.Error("the date is not that of the source")
	}
	for _, c := range visible(app.Commands) {
		page := read("voluks-" + c.Name)
		if !strings.Contains(main, ".BR voluks\\-"+c.Name+" (1)") {
			t.Errorf("voluks(1) does not name voluks-%s(1)", c.Name)
		}
		var walk func(c *cli.Command)
		walk = func(c *cli.Command) {
			for _, f := range visibleFlags(c.Flags) {
				if name := `\fB\-\-` + roffText(f.Names()[0]); !strings.Contains(page, name) {
					t.Errorf("%s: --%s is not in its page", c.HelpName, f.Names()[0])
				}
			}
			for _, sub := range visible(c.Subcommands) {
				if !strings.Contains(page, strings.ToUpper(sub.HelpName)) {
					t.Errorf("%s is not in its page", sub.HelpName)
				}
				walk(sub)
			}
		}
		walk(c)
	}
	requests := []string{".TH", ".SH", ".PP", ".TP", ".B", ".BR", ".I", ".RS", ".RE", ".nf", ".fi", ".nh", ".ad", ".br"}
	pages, err := filepath.Glob(filepath.Join(dir, "man1", "*"))
	if err != nil || len(pages) < 5 {
		t.Fatalf("%q, %v", pages, err)
	}
	for _, page := range pages {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			first := strings.Fields(line + " .PP")[0]
			if (line[0] == '.' || line[0] == '\'') && !slices.Contains(requests, first) {
				t.Errorf("%s: roff does not know %q", filepath.Base(page), line)
			}
		}
	}
}

func TestRoffText(t *testing.T) {
	for in, want := range map[string]string{
		"--size 1G": `\-\-size 1G`, ".hidden\n'quoted'": "\\&.hidden\n\\&'quoted'", `a\nb`: `a\enb`, "`x` ~/^": `\(gax\(ga \(ti/\(ha`,
	} {
		if got := roffText(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestBashCompletion(t *testing.T) {
	file := filepath.Join(generated(t), "bash", "voluks")
	complete := func(words ...string) string {
		t.Helper()
		var quoted []string
		for _, w := range words {
			quoted = append(quoted, shellQuote(w))
		}
		script := fmt.Sprintf("source %s; COMP_WORDS=(voluks %s); COMP_CWORD=%d; _voluks; echo \"${COMPREPLY[@]}\"", file, strings.Join(quoted, " "), len(words))
		out, err := exec.CommandContext(t.Context(), "bash", "-u", "-c", script).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	for _, c := range []struct {
		words []string
		want  []string // among the answers
		not   []string
	}{
		{[]string{""}, []string{"volume", "serve", "boot"}, []string{"worker", "generate", "--root"}},
		{[]string{"vol"}, []string{"volume"}, []string{"boot"}},
		{[]string{"--"}, []string{"--root", "--verbose", "--help"}, []string{"volume"}},
		{[]string{"--verbose", "--root", "/x", "volume", ""}, []string{"create", "rm", "ls"}, []string{"volume"}},
		{[]string{"volume", "create", "--s"}, []string{"--size"}, []string{"--help"}},
		{[]string{"boot", "enable", "pg", "--no"}, []string{"--nofail", "--now"}, []string{"--mount"}},
		{[]string{"boot", ""}, []string{"enable", "ls"}, []string{"open", "wait"}},
		{[]string{"--root", ""}, nil, []string{"volume"}},
	} {
		got := strings.Fields(complete(c.words...))
		for _, w := range c.want {
			if !slices.Contains(got, w) {
				t.Errorf("%q: no %s in %q", c.words, w, got)
			}
		}
		for _, w := range c.not {
			if slices.Contains(got, w) {
				t.Errorf("%q: %s in %q", c.words, w, got)
			}
		}
	}
}

// zsh and fish are not on every machine that tests; the quoting is what could go wrong.
func TestOtherCompletions(t *testing.T) {
	dir := generated(t)
	for _, name := range []string{"zsh/_voluks", "fish/voluks.fish"} {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"volume rm", "nofail", volumesDir} {
			if !strings.Contains(string(b), want) {
				t.Errorf("%s: no %q", name, want)
			}
		}
		for line := range strings.Lines(string(b)) {
			if strings.Count(line, "'")%2 != 0 {
				t.Errorf("%s: a quote is open: %s", name, line)
			}
		}
	}
}
