// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

var shellBlock = regexp.MustCompile("(?s)\n```sh\n(.*?)```")

// example runs the shell blocks of a section of docs/boot.md as they are written.
func example(t *testing.T, section string) {
	t.Helper()
	text, err := os.ReadFile("/mnt/src/docs/boot.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "\n## "+section+"\n")
	rest, _, _ = strings.Cut(rest, "\n## ")
	blocks := shellBlock.FindAllStringSubmatch(rest, -1)
	if !found || len(blocks) == 0 {
		t.Fatalf("docs/boot.md has no example in the section %q", section)
	}
	for _, b := range blocks {
		output(t, "bash", "-euo", "pipefail", "-c", b[1])
	}
}
