// SPDX-License-Identifier: Apache-2.0

package header_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/luks/header"
)

// The committed headers were made by other programs, whose own words about them lie beside them.
func TestReadAgreesWithCommittedWitness(t *testing.T) {
	for name, raw := range realHeaders(t) {
		t.Run(name, func(t *testing.T) {
			dump, err := os.ReadFile("testdata/" + name + ".json")
			if err != nil {
				t.Fatal(err)
			}
			h := mustRead(t, raw)
			agree(t, h, dump)
			err = h.Strict(header.Expect{MetadataSize: h.Size})
			if strings.HasSuffix(name, "-reencrypting") {
				if err == nil {
					t.Error("a re-encrypting header is acceptable")
				}
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// The cryptsetup of this machine formats, and both it and Read say what they see.
func TestReadAgreesWithCryptsetup(t *testing.T) {
	cheap := []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}
	tests := map[string][]string{
		"defaults":           cheap,
		"as voluks":          append(cheap, "--luks2-metadata-size", "64k", "--offset", "32768", "--sector-size", "4096", "--key-size", "512", "--key-slot", "31"),
		"argon2i":            {"--pbkdf", "argon2i", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "64", "--pbkdf-parallel", "1"},
		"other sizes":        append(cheap, "--luks2-metadata-size", "1m", "--luks2-keyslots-size", "4m", "--sector-size", "2048"),
		"other cipher":       append(cheap, "--cipher", "aes-cbc-essiv:sha256", "--key-size", "256", "--hash", "sha512"),
		"text in the labels": append(cheap, "--label", "größe 1", "--subsystem", "a=b"),
	}
	for name, args := range tests {
		t.Run(name, func(t *testing.T) {
			img := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(img, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(img, 24<<20); err != nil {
				t.Fatal(err)
			}
			cryptsetup(t, append([]string{"luksFormat", "-q", "--type", "luks2", "--key-file", "-", img}, args...)...)
			f, err := os.Open(img)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			h, err := header.Read(f, 24<<20)
			if err != nil {
				t.Fatal(err)
			}
			if h.Damage() != nil {
				t.Errorf("damage: %v", h.Damage())
			}
			agree(t, h, cryptsetup(t, "luksDump", "--dump-json-metadata", img))
			if id := strings.TrimSpace(string(cryptsetup(t, "luksUUID", img))); id != h.UUID {
				t.Errorf("UUID %q, cryptsetup says %q", h.UUID, id)
			}
			text := string(cryptsetup(t, "luksDump", img))
			for key, value := range map[string]string{"Epoch": fmt.Sprint(h.Epoch), "Metadata area": fmt.Sprint(h.Size), "Label": h.Label, "Subsystem": h.Subsystem} {
				if value != "" && !strings.Contains(strings.Join(strings.Fields(text), " "), key+": "+value) {
					t.Errorf("%s is %q for us, but not in\n%s", key, value, text)
				}
			}
		})
	}
}

// cryptsetup runs the real program, which is part of what the project needs on any machine.
func cryptsetup(t *testing.T, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "cryptsetup", args...)
	cmd.Stdin = strings.NewReader("not a secret")
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cryptsetup %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// agree compares a header with what cryptsetup dumps of it, field by field.
func agree(t *testing.T, h *header.Header, dump []byte) {
	t.Helper()
	var ours, theirs any
	if err := json.Unmarshal(h.JSON, &ours); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(dump, &theirs); err != nil {
		t.Fatalf("%v in %s", err, dump)
	}
	if !reflect.DeepEqual(ours, theirs) {
		t.Errorf("the metadata is %s, cryptsetup says %s", h.JSON, dump)
	}
	root := theirs.(map[string]any)
	same := func(path string, got any) {
		t.Helper()
		var at any = root
		for _, name := range strings.Split(path, ".") {
			at = at.(map[string]any)[name]
		}
		if fmt.Sprint(got) != fmt.Sprint(at) {
			t.Errorf("%s is %v, cryptsetup says %v", path, got, at)
		}
	}
	counts := map[string]int{"keyslots": len(h.Keyslots), "tokens": len(h.Tokens), "segments": len(h.Segments), "digests": len(h.Digests)}
	for name, n := range counts {
		if want := len(root[name].(map[string]any)); n != want {
			t.Errorf("%d %s, cryptsetup says %d", n, name, want)
		}
	}
	for id, k := range h.Keyslots {
		p := fmt.Sprintf("keyslots.%d.", id)
		same(p+"type", k.Type)
		same(p+"area.offset", k.Area.Offset)
		same(p+"area.size", k.Area.Size)
		if k.Type != "luks2" {
			continue
		}
		same(p+"key_size", k.KeySize)
		same(p+"area.encryption", k.Area.Encryption)
		same(p+"area.key_size", k.Area.KeySize)
		same(p+"af.hash", k.AF.Hash)
		same(p+"kdf.type", k.KDF.Type)
		if k.KDF.Type == "pbkdf2" {
			same(p+"kdf.iterations", k.KDF.Iterations)
			same(p+"kdf.hash", k.KDF.Hash)
		} else {
			same(p+"kdf.time", k.KDF.Time)
			same(p+"kdf.memory", k.KDF.Memory)
			same(p+"kdf.cpus", k.KDF.CPUs)
		}
	}
	for id, s := range h.Segments {
		p := fmt.Sprintf("segments.%d.", id)
		same(p+"offset", s.Offset)
		same(p+"encryption", s.Encryption)
		same(p+"sector_size", s.SectorSize)
		same(p+"iv_tweak", s.IVTweak)
	}
	for id, token := range h.Tokens {
		same(fmt.Sprintf("tokens.%d.type", id), token.Type)
		same(fmt.Sprintf("tokens.%d.keyslots", id), token.Keyslots)
	}
	same("config.keyslots_size", h.Config.KeyslotsSize)
	same("config.json_size", h.Config.JSONSize)
}
