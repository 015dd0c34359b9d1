// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var keyProviders = []string{"file", "keydir", "credential", "awskms", "vault", "clevis", "exec"}

// A key provider is small, since each is one more thing that is handed keys: what several need is made once, beside them. docs/key-providers.md says how
// small, and may be off by a few lines.
func TestProvidersAreSmall(t *testing.T) {
	doc, err := os.ReadFile("../../docs/key-providers.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range keyProviders {
		lines := codeLines(t, filepath.Join("../kek", name))
		if lines > 200 {
			t.Errorf("%s has %d lines of code, at most 200", name, lines)
		}
		row := regexp.MustCompile(fmt.Sprintf("(?m)^\\| `%s` \\| ([0-9]+) \\|", name)).FindSubmatch(doc)
		if row == nil {
			t.Errorf("docs/key-providers.md does not say how many lines %s has", name)
			continue
		}
		if said, _ := strconv.Atoi(string(row[1])); said < lines-10 || said > lines+10 {
			t.Errorf("docs/key-providers.md says that %s has %d lines of code, which are %d", name, said, lines)
		}
	}
}

// codeLines counts the lines of a package that are neither blank nor comments, without its tests.
func codeLines(t *testing.T, dir string) (lines int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: %v", dir, err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(source)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "//") {
				lines++
			}
		}
	}
	return lines
}
