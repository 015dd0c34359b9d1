// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/keyslot"
)

var update = flag.Bool("update", false, "rewrite golden files")

const uuid = "0b41f68c-4a4c-4d5e-9a4e-0f1d2c3b4a59"

var created = time.Date(2026, 11, 22, 18, 54, 7, 0, time.UTC)

func agentToken() keyslot.AgentToken {
	return keyslot.AgentToken{
		Slot: 31, UUID: uuid, Generation: 3,
		KEK:  kek.Ref{Provider: "vault", ID: "https://vault:8200/transit/voluks", Version: "4"},
		Wrap: bytes.Repeat([]byte{0xfb, 0xff}, 40), Sealed: bytes.Repeat([]byte{0x7e}, 60),
		History: []kek.Ref{{Provider: "file", ID: "16edd27f383085d2"}, {Provider: "vault", ID: "https://vault:8200/transit/voluks"}},
		Created: created,
	}
}

func recoveryToken() keyslot.RecoveryToken {
	return keyslot.RecoveryToken{
		Slot: 30, UUID: uuid, Generation: 1, Recipients: []string{"1234567890abcdef", "fedcba0987654321"},
		Age:     "-----BEGIN AGE ENCRYPTED FILE-----\nYWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+\n-----END AGE ENCRYPTED FILE-----\n",
		Created: created,
	}
}

func volumeToken() keyslot.VolumeToken {
	return keyslot.VolumeToken{
		UUID: uuid, Name: "stack_pg<data>&", FS: "ext4", FSUUID: "6f2a1c1e-7d1e-4b7e-8a55-52f0a4d1c0de",
		Options: map[string]string{"size": "10G", "mode": "0700"}, HighestGeneration: 3,
	}
}

func encoded(t testing.TB, token interface{ Encode() ([]byte, error) }) []byte {
	t.Helper()
	raw, err := token.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// The tokens of every release are read by all later ones.
func TestGolden(t *testing.T) {
	for name, token := range map[string]interface{ Encode() ([]byte, error) }{"agent": agentToken(), "recovery": recoveryToken(), "volume": volumeToken()} {
		file := filepath.Join("testdata", "compat", "v1", name+".json")
		raw := encoded(t, token)
		if *update {
			if err := os.WriteFile(file, append(raw, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		golden, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if string(raw)+"\n" != string(golden) {
			t.Errorf("%s: encoded as\n%s\nnot as\n%s", name, raw, golden)
		}
		got, err := keyslot.DecodeToken(golden)
		if err != nil || !reflect.DeepEqual(got, token) {
			t.Errorf("%s: decoded as %+v, %v", name, got, err)
		}
	}
}

// libcryptsetup writes JSON in its own way.
func TestOtherForms(t *testing.T) {
	raw := string(encoded(t, agentToken()))
	for name, form := range map[string]string{
		"blanks":  strings.NewReplacer(`":`, `" : `, `,"`, ",\n\t\"").Replace(raw),
		"slashes": strings.ReplaceAll(raw, "/", `\/`),
		"unicode": strings.ReplaceAll(raw, "voluks", `\u0076oluks`),
	} {
		if form == raw {
			t.Fatalf("%s: the same", name)
		}
		if got, err := keyslot.DecodeToken([]byte(form)); err != nil || !reflect.DeepEqual(got, agentToken()) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestUnknownVersions(t *testing.T) {
	raw := string(encoded(t, agentToken()))
	for _, v := range []string{`"v":2`, `"v":0`, `"v":"1"`, `"v":1.0`, `"v":null`, `"w":1`, `"v":2,"other":[{}]`} {
		token, err := keyslot.DecodeToken([]byte(strings.Replace(raw, `"v":1`, v, 1)))
		if token != nil || !errors.Is(err, keyslot.ErrUnknownVersion) || errors.Is(err, keyslot.ErrToken) {
			t.Errorf("%s: %v, %v", v, token, err)
		}
	}
}

func TestMalformed(t *testing.T) {
	agent, recovery, volume := string(encoded(t, agentToken())), string(encoded(t, recoveryToken())), string(encoded(t, volumeToken()))
	tests := []struct{ raw, old, new string }{
		{agent, agent, ``},
		{agent, agent, `[]`},
		{agent, agent, `null`},
		{agent, agent, `{"type":"voluks-agent","v":1}`},
		{agent, agent, `{"type":"voluks-other","v":1}`},
		{agent, agent, `{"type":"clevis","v":1}`},
		{agent, agent, agent + `{}`},
		{agent, agent, agent[:len(agent)-1]},
		{agent, `"v":1`, `"v":1,"unknown":1`},
		{agent, `"generation"`, `"Generation"`},
		{agent, `"role":"agent"`, `"role":"recovery"`},
		{agent, `"role":"agent",`, ``},
		{agent, `"type":"voluks-agent"`, `"type":"voluks-recovery"`},
		{agent, `["31"]`, `[]`},
		{agent, `["31"]`, `["31","30"]`},
		{agent, `["31"]`, `["32"]`},
		{agent, `["31"]`, `["-1"]`},
		{agent, `["31"]`, `["031"]`},
		{agent, `["31"]`, `[31]`},
		{agent, uuid, strings.ToUpper(uuid)},
		{agent, uuid, uuid + "0"},
		{agent, uuid, strings.ReplaceAll(uuid, "-", "0")},
		{agent, uuid, ""},
		{agent, `"generation":3`, `"generation":0`},
		{agent, `"generation":3`, `"generation":-1`},
		{agent, `"generation":3`, `"generation":3.0`},
		{agent, `"generation":3`, `"generation":1e1`},
		{agent, `"generation":3`, `"generation":9007199254740993`},
		{agent, `"provider":"vault","id"`, `"provider":"","id"`},
		{agent, `"version":"4"`, `"version":""`},
		{agent, `"version":"4"`, `"version":"4","x":1`},
		{agent, `"sealed":"fn5+`, `"sealed":"`},
		{agent, `"sealed":"fn5+`, `"sealed":"fn5-`},
		{agent, `"wrap":"`, `"wrap":"\n`},
		{agent, `"wrap":"`, `"wrap":"","x":"`},
		{agent, `{"provider":"file","id":"16edd27f383085d2"},`, `{"provider":"file","id":"16edd27f383085d2"},{"provider":"file","id":"16edd27f383085d2"},`},
		{agent, `{"provider":"vault","id":"https://vault:8200/transit/voluks"}]`, `{"provider":"file","id":"x"}]`},
		{agent, `{"provider":"file","id":"16edd27f383085d2"}`, `{"provider":"file","id":"16edd27f383085d2","version":"1"}`},
		{agent, `,"created"`, `,"kek_former":[],"created"`},
		{agent, `,"created"`, `,"kek_former":[{"provider":"file","id":"16edd27f383085d2"}],"created"`},
		{agent, `,"created"`, `,"kek_former":[{"provider":"file","id":"a","version":"1"}],"created"`},
		{agent, `"2026-11-22T18:54:07Z"`, `"2026-11-22T18:54:07+01:00"`},
		{agent, `"2026-11-22T18:54:07Z"`, `"2026-11-22T18:54:07.5Z"`},
		{agent, `"2026-11-22T18:54:07Z"`, `"1970-01-01T00:00:00Z"`},
		{agent, `"2026-11-22T18:54:07Z"`, `1`},
		{recovery, `-----BEGIN AGE`, `-----BEGIN PGP`},
		{recovery, `FILE-----\n"`, `FILE-----"`},
		{recovery, `YWdl`, `YW\u0000dl`},
		{recovery, `["1234567890abcdef","fedcba0987654321"]`, `[]`},
		{recovery, `["1234567890abcdef","fedcba0987654321"]`, `null`},
		{recovery, `1234567890abcdef`, ``},
		{recovery, `1234567890abcdef`, `\u001b[31m`},
		{volume, `"keyslots":[]`, `"keyslots":["31"]`},
		{volume, `"keyslots":[]`, `"keyslots":null`},
		{volume, `"name":"stack_pg`, `"name":"\u0007stack_pg`},
		{volume, `"fs":"ext4"`, `"fs":""`},
		{volume, `"mode":"0700"`, `"mode":700`},
		{volume, `"mode":"0700"`, `"":"0700"`},
		{volume, `"options":{"mode":"0700","size":"10G"}`, `"options":null`},
		{volume, `"highest_generation":3`, `"highest_generation":0`},
	}
	for _, test := range tests {
		changed := strings.Replace(test.raw, test.old, test.new, 1)
		if changed == test.raw {
			t.Errorf("%q is not in %s", test.old, test.raw)
			continue
		}
		token, err := keyslot.DecodeToken([]byte(changed))
		if token != nil || !errors.Is(err, keyslot.ErrToken) {
			t.Errorf("%q instead of %q: %v, %v", test.new, test.old, token, err)
		}
	}
	if token, err := keyslot.DecodeToken([]byte(`{"type":"voluks-agent","v":1,"x":"` + strings.Repeat("x", keyslot.MaxTokens) + `"}`)); token != nil || err == nil {
		t.Errorf("too large: %v", err)
	}
}

// Nothing is written that would not be read.
func TestEncodeRefuses(t *testing.T) {
	for i, change := range []func(*keyslot.AgentToken){
		func(a *keyslot.AgentToken) { a.Slot = 32 },
		func(a *keyslot.AgentToken) { a.Slot = -1 },
		func(a *keyslot.AgentToken) { a.UUID = "x" },
		func(a *keyslot.AgentToken) { a.Generation = 0 },
		func(a *keyslot.AgentToken) { a.Wrap = nil },
		func(a *keyslot.AgentToken) { a.Wrap = make([]byte, kek.MaxWrap+1) },
		func(a *keyslot.AgentToken) { a.Sealed = a.Sealed[:59] },
		func(a *keyslot.AgentToken) { a.History = nil },
		func(a *keyslot.AgentToken) { a.KEK.ID = "\xff" },
		func(a *keyslot.AgentToken) { a.Former = make([]kek.Ref, 33) },
		func(a *keyslot.AgentToken) { a.Former = a.History[:1] },
		func(a *keyslot.AgentToken) { a.Created = time.Time{} },
		func(a *keyslot.AgentToken) { a.Created = created.Add(1) },
	} {
		token := agentToken()
		change(&token)
		if raw, err := token.Encode(); raw != nil || err == nil {
			t.Errorf("change %d: encoded", i)
		}
	}
	for i, change := range []func(*keyslot.VolumeToken){
		func(v *keyslot.VolumeToken) { v.UUID = "" },
		func(v *keyslot.VolumeToken) { v.Name = "" },
		func(v *keyslot.VolumeToken) { v.Name = strings.Repeat("x", 513) },
		func(v *keyslot.VolumeToken) { v.HighestGeneration = 0 },
		func(v *keyslot.VolumeToken) { v.Options["a\nb"] = "" },
		func(v *keyslot.VolumeToken) {
			for n := range 40 {
				v.Options[fmt.Sprint(n)] = ""
			}
		},
	} {
		token := volumeToken()
		change(&token)
		if raw, err := token.Encode(); raw != nil || err == nil {
			t.Errorf("change %d: encoded", i)
		}
	}
}

// Laws: decoding what was encoded gives the same token, byte for byte the same encoding, and an error
// comes without a token.
func FuzzDecodeToken(f *testing.F) {
	for _, token := range []interface{ Encode() ([]byte, error) }{agentToken(), recoveryToken(), volumeToken()} {
		f.Add(encoded(f, token))
	}
	former := agentToken()
	former.Former = []kek.Ref{{Provider: "file", ID: "0123456789abcdef"}}
	f.Add(encoded(f, former))
	f.Add([]byte(`{"type":"voluks-agent","v":2}`))
	f.Add([]byte(`{"type":"voluks-pending","keyslots":[],"v":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		token, err := keyslot.DecodeToken(raw)
		if err != nil {
			if token != nil {
				t.Fatalf("error %v and token %+v", err, token)
			}
			return
		}
		again := encoded(t, token.(interface{ Encode() ([]byte, error) }))
		same, err := keyslot.DecodeToken(again)
		if err != nil || !reflect.DeepEqual(same, token) {
			t.Fatalf("%s is decoded as %+v, encoded as %s and decoded as %+v, %v", raw, token, again, same, err)
		}
		if twice := encoded(t, same.(interface{ Encode() ([]byte, error) })); !bytes.Equal(twice, again) {
			t.Fatalf("encoded as %s and as %s", again, twice)
		}
	})
}
