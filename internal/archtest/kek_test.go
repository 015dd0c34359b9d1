// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A key provider is small, since each is one more thing that is handed keys: what several need is made once, beside them.
func TestProvidersAreSmall(t *testing.T) {
	for _, name := range []string{"file", "keydir", "credential", "awskms", "vault", "clevis", "exec"} {
		files, err := filepath.Glob(filepath.Join("../kek", name, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", name, err)
		}
		lines := 0
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
		if lines > 200 {
			t.Errorf("%s has %d lines of code, at most 200", name, lines)
		}
	}
}
