// SPDX-License-Identifier: Apache-2.0

package typable

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/testenv"
)

// A slot made from our key and token is to systemd a recovery key of its own, and one that systemd made is to us: same form, same passphrase, same token.
func TestAgainstSystemd(t *testing.T) {
	for _, tool := range []string{"cryptsetup", "systemd-cryptenroll"} {
		if _, err := exec.LookPath(tool); err != nil {
			testenv.Missing(t, "tools", err.Error())
		}
	}
	dir := t.TempDir()
	image, passphrase := filepath.Join(dir, "image"), filepath.Join(dir, "passphrase")
	for _, f := range []struct {
		path string
		size int64
	}{{image, 20 << 20}, {passphrase, 16}} {
		if err := os.WriteFile(f.path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(f.path, f.size); err != nil {
			t.Fatal(err)
		}
	}
	fast := []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}
	run(t, nil, "cryptsetup", append([]string{"luksFormat", "-q", "--type", "luks2", "--key-file", passphrase, image}, fast...)...)

	ours, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Wipe()
	run(t, ours.Bytes(), "cryptsetup", append([]string{"luksAddKey", "-q", "--key-slot", "5", "--key-file", passphrase, image, "-"}, fast...)...)
	run(t, Token(5), "cryptsetup", "token", "import", image)
	if list := run(t, nil, "systemd-cryptenroll", image); !strings.Contains(list, "5 recovery") {
		t.Errorf("systemd-cryptenroll does not list slot 5 as recovery:\n%s", list)
	}
	// As a person would type it into cryptsetup.
	run(t, append(bytes.Clone(ours.Bytes()), '\n'), "cryptsetup", "open", "--test-passphrase", "--key-slot", "5", image)

	typed := strings.TrimSpace(run(t, nil, "systemd-cryptenroll", "--unlock-key-file="+passphrase, "--recovery-key", image))
	theirs, err := Parse([]byte(typed))
	if err != nil {
		t.Fatalf("a key that systemd made: %v", err)
	}
	defer theirs.Wipe()
	if string(theirs.Bytes()) != typed {
		t.Error("the normal form is not that of systemd")
	}
	var header struct {
		Tokens map[string]json.RawMessage
	}
	if err := json.Unmarshal([]byte(run(t, nil, "cryptsetup", "luksDump", "--dump-json-metadata", image)), &header); err != nil {
		t.Fatal(err)
	}
	mine, its := compact(t, header.Tokens["0"]), compact(t, header.Tokens["1"])
	if slot := strings.Trim(its[strings.Index(its, "["):], `[]}"`); its != string(Token(must(strconv.Atoi(slot)))) {
		t.Errorf("its token %s, ours for that slot %s (as stored %s)", its, Token(must(strconv.Atoi(slot))), mine)
	}
	run(t, theirs.Bytes(), "cryptsetup", "open", "--test-passphrase", "--key-file", "-", image)
}

func must(n int, err error) int {
	if err != nil {
		panic(err)
	}
	return n
}

func compact(t *testing.T, raw json.RawMessage) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return b.String()
}

// run returns what the command prints, and fails the test if it fails.
func run(t *testing.T, stdin []byte, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}
