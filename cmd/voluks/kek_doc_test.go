// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/config"
)

// docs/key-providers.md has a section per provider, each with a complete configuration that the parser takes and that selects that provider, with what
// it needs to be allowed, and with who gets what.
func TestKeyProvidersDoc(t *testing.T) {
	text, err := os.ReadFile("../../docs/key-providers.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]string{}
	for _, section := range strings.Split(string(text), "\n## ")[1:] {
		name, body, _ := strings.Cut(section, "\n")
		sections[name] = body
	}
	tables := regexp.MustCompile("(?s)```toml\n(.*?)```")
	seen := 0
	for name, body := range sections {
		blocks := tables.FindAllStringSubmatch(body, -1)
		for i, block := range blocks {
			cfg, err := config.Parse(name, []byte(block[1]), config.DefaultPaths())
			if err != nil {
				t.Errorf("%s: %v\n%s", name, err, block[1])
			} else if providerSection(name) && cfg.KEK.Provider != name {
				t.Errorf("%s: example %d selects %s", name, i, cfg.KEK.Provider)
			}
		}
		if !providerSection(name) {
			continue
		}
		seen++
		if len(blocks) == 0 {
			t.Errorf("%s has no configuration", name)
		}
		for _, point := range []string{"**Set it up.**", "**Permissions.**", "**Who has the disk**", "**Who has the node**", "**Who has the key"} {
			if !strings.Contains(body, point) {
				t.Errorf("%s does not say: %s", name, point)
			}
		}
	}
	if seen != len(kekProviders) {
		t.Errorf("%d of %d providers have a section", seen, len(kekProviders))
	}
	var policy struct {
		Statement []struct{ Action []string }
	}
	_, after, _ := strings.Cut(sections["awskms"], "```json\n")
	block, _, _ := strings.Cut(after, "```")
	if err := json.Unmarshal([]byte(block), &policy); err != nil || len(policy.Statement) != 1 || len(policy.Statement[0].Action) != 4 {
		t.Errorf("the IAM policy: %v\n%s", err, block)
	}
	for _, operation := range []string{"encrypt", "decrypt", "rewrap"} {
		if !strings.Contains(sections["vault"], `path "transit/`+operation+`/voluks"`) {
			t.Errorf("the policy of Vault does not allow %s", operation)
		}
	}
}

var kekProviders = []string{"file", "keydir", "credential", "awskms", "vault", "clevis", "exec"}

func providerSection(name string) bool { return slices.Contains(kekProviders, name) }

// Each command of voluks that the page tells people to run is one, with those flags.
func TestKeyProvidersDocCommands(t *testing.T) {
	text, err := os.ReadFile("../../docs/key-providers.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := regexp.MustCompile("(?m)(?:^|`)(voluks [a-z][^`\n#]*)").FindAllStringSubmatch(string(text), -1)
	for _, m := range commands {
		if strings.HasPrefix(m[1], "voluks volume reencrypt") {
			continue // planned, and said to be
		}
		if err := understood(m[1]); err != nil {
			t.Errorf("%q: %v", m[1], err)
		}
	}
	if len(commands) < 12 {
		t.Errorf("only %d commands found", len(commands))
	}
	if _, err := os.Stat(filepath.Join("..", "..", "examples", "kek-helper")); err != nil {
		t.Error(err)
	}
}
