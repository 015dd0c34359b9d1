// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/luks/header"
	"github.com/voluks/voluks/luks/internal/cryptsetup"
)

// Volume keys are random: those of two containers with the same slot key and UUID differ, and neither is the slot key. F37
func TestVolumeKeysAreDistinct(t *testing.T) {
	key := randomKey(t)
	var keys []*secret.Key
	for range 3 {
		c := formatted(t, key)
		vk, err := secret.New(64)
		must(t, err)
		t.Cleanup(vk.Wipe)
		must(t, c.load("get the volume key", nil, func(d *cryptsetup.Device) error { return d.VolumeKey(agent, key.Bytes(), vk.Bytes()) }))
		if bytes.Contains(vk.Bytes(), key.Bytes()[:16]) || bytes.Equal(vk.Bytes()[:32], vk.Bytes()[32:]) || bytes.Equal(vk.Bytes()[:32], make([]byte, 32)) {
			t.Error("a volume key that is not random")
		}
		keys = append(keys, vk)
	}
	for i, k := range keys {
		for _, other := range keys[:i] {
			if k.Equal(other) {
				t.Error("two containers have the same volume key")
			}
		}
	}
}

// Slots of others, enrolled by another program, stay as they are through all that voluks does, and do not make the header unacceptable.
func TestForeignSlots(t *testing.T) {
	key, other := randomKey(t), randomKey(t)
	c := formatted(t, key)
	passphrase := filepath.Join(t.TempDir(), "passphrase")
	must(t, os.WriteFile(passphrase, []byte("correct horse"), 0o600))
	mustCLI(t, key, "luksAddKey", "-q", "--key-file", "-", "--key-slot", "31", "--new-key-slot", "0",
		"--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "32768", "--pbkdf-parallel", "1", c.Path(), passphrase)
	token := filepath.Join(t.TempDir(), "token")
	const enrolled = `{"type":"clevis","keyslots":["0"],"jwe":{"protected":"e30"}}`
	must(t, os.WriteFile(token, []byte(enrolled), 0o600))
	mustCLI(t, nil, "token", "import", "--token-id", "7", "--json-file", token, c.Path())
	before := mustHeader(t, c)
	must(t, before.Strict(header.Expect{UUID: testUUID}))

	must(t, c.AddSlot(Auth{agent, key}, recovery, other, KDFRandomKey))
	must(t, setToken(c, -1, `{"type":"voluks-agent","keyslots":["31"]}`))
	must(t, c.KillSlot(agent))
	must(t, c.SetFlags(Flags{Discards: true}))

	after := mustHeader(t, c)
	if !reflect.DeepEqual(before.Keyslots[0], after.Keyslots[0]) || string(after.Tokens[7].JSON) != enrolled {
		t.Errorf("changed: %+v, %s", after.Keyslots[0], after.Tokens[7].JSON)
	}
	must(t, c.TestSlot(0, keyOf(t, "correct horse")))
	must(t, c.Witness(0, keyOf(t, "correct horse")))
	wantError(t, c.TestSlot(0, key), ErrWrongKey)
}

// Each slot gets the derivation that was asked for, whatever the container was formatted with. F38
func TestDerivations(t *testing.T) {
	key := randomKey(t)
	c := formatted(t, key)
	cheap := cryptsetup.PBKDF{Type: "argon2id", Iterations: 4, Memory: 32768, Threads: 1}
	if got := KDFPassphrase.params(); got != (cryptsetup.PBKDF{Type: "argon2id"}) {
		t.Errorf("a passphrase gets %+v", got)
	}
	must(t, c.addSlot("test", Auth{agent, key}, 1, keyOf(t, "a passphrase"), cheap))
	must(t, c.AddSlot(Auth{1, keyOf(t, "a passphrase")}, 2, randomKey(t), KDFRandomKey))
	h := mustHeader(t, c)
	if k := h.Keyslots[1].KDF; k.Type != "argon2id" || k.Time != 4 || k.Memory != 32768 || k.CPUs != 1 || !KDFPassphrase.made(h.Keyslots[1]) || KDFRandomKey.made(h.Keyslots[1]) {
		t.Errorf("slot 1: %+v", k)
	}
	// A successor costs no less, and no less than today's minimum either.
	want := KDF{Type: "argon2id", Time: 4, Memory: 65536, CPUs: 1}
	if got := AtLeast(h.Keyslots[1].KDF); got != want || want.made(h.Keyslots[1]) {
		t.Errorf("successor of slot 1: %+v", got)
	}
	if got := AtLeast(header.KDF{Type: "argon2i", Time: 7, Memory: 1 << 20, CPUs: 4}); got != (KDF{Type: "argon2id", Time: 7, Memory: 1 << 20, CPUs: 4}) {
		t.Errorf("successor of a costly slot: %+v", got)
	}
	if got := AtLeast(h.Keyslots[2].KDF); got != KDFPassphrase {
		t.Errorf("successor of slot 2: %+v", got)
	}
	must(t, c.AddSlot(Auth{agent, key}, 3, keyOf(t, "another passphrase"), want))
	if k := mustHeader(t, c).Keyslots[3].KDF; k.Type != "argon2id" || k.Time != 4 || k.Memory != 65536 || k.CPUs != 1 {
		t.Errorf("slot 3: %+v", k)
	}
	for _, bad := range []KDF{{}, {Type: "argon2id", Time: 4}, {Type: "argon2id", Time: 4, Memory: 65536}, {Type: "pbkdf2", Hash: "sha256", Iterations: 1000}} {
		if err := c.AddSlot(Auth{agent, key}, 4, key, bad); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if k := h.Keyslots[2].KDF; k.Type != "pbkdf2" || k.Hash != "sha256" || k.Iterations != 1000 || KDFPassphrase.made(h.Keyslots[2]) {
		t.Errorf("slot 2: %+v", k)
	}
}

// A container of AES-128-XTS, as cryptsetup made them once, is handled too where it is somebody else's, and by the two implementations.
func TestShortVolumeKey(t *testing.T) {
	key, next := randomKey(t), randomKey(t)
	c := Foreign(image(t))
	mustCLI(t, key, "luksFormat", "-q", "--type", "luks2", "--key-file", "-", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-size", "256", c.Path())
	must(t, c.AddSlot(Auth{0, key}, 1, next, KDFRandomKey))
	must(t, c.TestSlot(1, next))
	must(t, c.Witness(1, next))
	wantError(t, c.Witness(1, key), ErrWrongKey)
	mustCLI(t, next, "open", "--test-passphrase", "--key-slot", "1", "--key-file", "-", c.Path())
	var strict *header.StrictError
	if err := At(c.Path()).TestSlot(1, next); !errors.As(err, &strict) {
		t.Errorf("taken for one of voluks: %v", err)
	}
}

// Containers that voluks could not have made: the key is not even tried, and nothing is written. F48
func TestUnacceptableHeaders(t *testing.T) {
	key := randomKey(t)
	as := []string{"luksFormat", "-q", "--type", "luks2", "--key-file", "-", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}
	like := append(as, "--luks2-metadata-size", "64k", "--offset", "32768", "--key-size", "512")
	tests := map[string]struct {
		args  []string
		field string
	}{
		"key size":      {append(like[:len(like)-1:len(like)-1], "256"), "keyslots.0.area.size"},
		"metadata size": {as, "metadata size"},
		"sector size":   {append(like[:len(like):len(like)], "--sector-size", "2048"), "segments.0.sector_size"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := At(image(t))
			mustCLI(t, key, append(test.args, c.Path())...)
			before := content(t, c.Path())
			for op, err := range map[string]error{"test": c.TestSlot(0, key), "add": c.AddSlot(Auth{0, key}, 1, key, KDFRandomKey), "witness": c.Witness(0, key)} {
				var strict *header.StrictError
				if !errors.As(err, &strict) || !strings.Contains(err.Error(), c.Path()) {
					t.Errorf("%s: %v", op, err)
				} else if strict.Field != test.field {
					t.Errorf("%s: complaint about %s, want %s", op, strict.Field, test.field)
				}
			}
			if before != content(t, c.Path()) {
				t.Error("something was written")
			}
		})
	}
}
