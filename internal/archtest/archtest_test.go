// SPDX-License-Identifier: Apache-2.0

// Package archtest holds the import rules of docs/ARCHITECTURE.md as a test, each with its reason.
package archtest

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/voluks/voluks/"

// confined names packages that only some folders may import, and why.
// A folder stands for itself and everything below it.
var confined = []struct {
	imports string
	only    []string
	reason  string
}{
	{"C", []string{"luks/internal/cryptsetup"}, "one seam to C: everything above stays testable Go"},
	{"golang.org/x/sys", []string{"internal/sys"}, "system calls are read and reviewed in one place"},
	{"github.com/martinjungblut/go-cryptsetup", []string{"luks/internal/cryptsetup"}, "only luks talks to libcryptsetup"},
	{"github.com/anatol/luks.go", []string{"luks"}, "it may only see headers that our strict check has passed"},
	{"github.com/docker/go-plugins-helpers", []string{"dockerplugin"}, "the Docker protocol is one face among several"},
	{"github.com/coreos/go-systemd", []string{"systemd"}, "systemd is one face among several"},
	{"github.com/urfave/cli", []string{"cmd"}, "hints, exit codes and flags live in cmd"},
	{"github.com/google/renameio", []string{"internal/atomicfile"}, "one way to write state"},
	{"github.com/pelletier/go-toml", []string{"internal/config"}, "one way to read configuration"},
	{"filippo.io/age", []string{"internal/recovery"}, "the recovery format is decided in one package"},
	{"github.com/cloudflare/circl", []string{"internal/recovery/share"}, "shares are made and combined in one package"},
	{"rsc.io/qr", []string{"internal/qr"}, "one place shows secrets as a picture"},
	{"github.com/aws", []string{"internal/kek/awskms"}, "the SDK of a key service is its provider's own business"},
	{"github.com/hashicorp", []string{"internal/kek/vault/transittest"}, "Vault's engines are for tests, in a module of their own"},
	{"golang.org/x/term", []string{"cmd"}, "only the command line talks to people"},
}

// layer gives each package its height. A package imports only what lies lower, or its own subpackages.
var layer = map[string]int{
	"internal/sys":          0,
	"internal/crashpoint":   0,
	"internal/lateregexp":   0,
	"internal/secret":       1,
	"internal/atomicfile":   1,
	"internal/copytree":     1,
	"internal/qr":           2,
	"internal/passphrase":   2,
	"internal/config":       2,
	"internal/recovery":     3,
	"internal/kek":          3,
	"internal/backing":      3,
	"internal/filesystem":   3,
	"luks":                  3,
	"keyslot":               4,
	"internal/headerbackup": 4,
	"internal/volume":       5,
	"internal/doctor":       6,
	"internal/keysocket":    6,
	"internal/worker":       6,
	"internal/api":          7,
	"dockerplugin":          7,
	"systemd":               7,
	"cmd":                   8,
}

// free packages serve tests or examples and take no part in the layers.
var free = []string{"internal/archtest", "internal/bench", "internal/scenario", "internal/testenv", "internal/volume/volumetest", "internal/kek/kektest", "internal/kek/realtest", "examples", "scripts"}

func TestImports(t *testing.T) {
	root := "../.."
	seen := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "testdata" || d.Name() == "bin" || d.Name() == "dist") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir, _ := filepath.Rel(root, filepath.Dir(path))
		test := strings.HasSuffix(path, "_test.go")
		for _, spec := range file.Imports {
			imported, _ := strconv.Unquote(spec.Path.Value)
			checkConfined(t, path, dir, imported, test)
			if !test {
				checkLayer(t, path, dir, imported, seen)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range layer {
		if _, err := os.Stat(filepath.Join(root, name)); err == nil && !seen[name] && name != "internal/sys" && name != "internal/crashpoint" && name != "internal/lateregexp" {
			t.Errorf("no import of %s was checked: is the rule still about a package that exists?", name)
		}
	}
}

// F30: nothing changes a slot in place, which leaves a moment without either key: neither a call of libcryptsetup or its binding nor a command.
func TestNoKeyIsChangedInPlace(t *testing.T) {
	forbidden := []string{"crypt_keyslot_change_by", "KeyslotChangeBy", "luksChangeKey"}
	files := 0
	for _, dir := range []string{"cmd", "dockerplugin", "internal", "keyslot", "luks", "systemd"} {
		err := filepath.WalkDir(filepath.Join("../..", dir), func(path string, d fs.DirEntry, err error) error {
			ext := filepath.Ext(path)
			if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") || ext != ".go" && ext != ".c" && ext != ".h" {
				return err
			}
			files++
			source, err := os.ReadFile(path)
			for _, name := range forbidden {
				if strings.Contains(string(source), name) {
					t.Errorf("%s has %s", path, name)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files < 200 {
		t.Errorf("only %d files were read", files)
	}
}

func checkConfined(t *testing.T, path, dir, imported string, test bool) {
	for _, rule := range confined {
		if !under(imported, rule.imports) {
			continue
		}
		allowed := test && rule.imports != "C"
		for _, only := range rule.only {
			allowed = allowed || under(dir, only)
		}
		if !allowed {
			t.Errorf("%s imports %s, which is for %s alone: %s", path, imported, strings.Join(rule.only, ", "), rule.reason)
		}
	}
}

func checkLayer(t *testing.T, path, dir, imported string, seen map[string]bool) {
	target, ours := strings.CutPrefix(imported, module)
	if !ours || isFree(dir) {
		return
	}
	from, to := owner(dir), owner(target)
	seen[from] = true
	switch {
	case isFree(target):
		t.Errorf("%s imports %s, which is for tests alone", path, target)
	case from == "" || to == "":
		t.Errorf("%s imports %s: one of them has no layer; give it one here and in docs/ARCHITECTURE.md", path, target)
	case from != to && layer[to] >= layer[from]:
		t.Errorf("%s imports %s: arrows point down only (%s is layer %d, %s layer %d)", path, target, from, layer[from], to, layer[to])
	}
}

// owner is the longest layered folder that holds dir.
func owner(dir string) string {
	best := ""
	for name := range layer {
		if under(dir, name) && len(name) > len(best) {
			best = name
		}
	}
	return best
}

func isFree(dir string) bool {
	for _, name := range free {
		if under(dir, name) {
			return true
		}
	}
	return false
}

func under(path, parent string) bool {
	return path == parent || strings.HasPrefix(path, parent+"/")
}
