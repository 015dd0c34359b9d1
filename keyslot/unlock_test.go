// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/file"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/kek/keyfile"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
)

// find returns the number and the JSON of the token of a type.
func find(t testing.TB, c keyslot.Container, kind string) (int, string) {
	t.Helper()
	h, err := c.Header()
	if err != nil {
		t.Fatal(err)
	}
	for id, token := range h.Tokens {
		if token.Type == kind {
			return id, string(token.JSON)
		}
	}
	t.Fatalf("no token of type %s", kind)
	return 0, ""
}

func set(t testing.TB, c keyslot.Container, id int, token string) int {
	t.Helper()
	id, err := c.SetToken(id, []byte(token))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// unbound is a provider whose keeper takes no associated data: all that binds is what keyslot seals.
type unbound struct{ kek.Provider }

var anything = kek.Binding{VolumeUUID: "any", Role: "any"}

func (u unbound) Generate(ctx context.Context, _ kek.Binding) (*secret.Key, []byte, kek.Ref, error) {
	return u.Provider.Generate(ctx, anything)
}

func (u unbound) Unwrap(ctx context.Context, _ kek.Binding, ref kek.Ref, wrap []byte) (*secret.Key, error) {
	return u.Provider.Unwrap(ctx, anything, ref, wrap)
}

// A token with another generation, or moved to another header with its UUID rewritten, does not open,
// even if the keeper of the key binds nothing.
func TestTamperedTokens(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		n.KEK.Active = unbound{n.provider.New()}
		c := n.formatted(t, l.blank(t))
		id, good := find(t, c, keyslot.TypeAgent)

		p := params()
		p.UUID = "ffffffff-4a4c-4d5e-9a4e-0f1d2c3b4a59"
		other := l.blank(t)().c
		if err := keyslot.Format(t.Context(), other, n.Keyring, p); err != nil {
			t.Fatal(err)
		}
		_, theirs := find(t, other, keyslot.TypeAgent)
		moved := strings.Replace(theirs, p.UUID, uuid, 1)

		for name, token := range map[string]string{
			"generation": strings.Replace(good, `"generation":1`, `"generation":2`, 1),
			"moved":      moved,
			"sealed":     flip(t, good, "sealed"),
			"wrap":       flip(t, good, "wrap"),
		} {
			if token == good {
				t.Fatalf("%s: nothing changed", name)
			}
			set(t, c, id, token)
			_, key, err := keyslot.Unlock(t.Context(), c, n.Keyring)
			if key != nil || !errors.Is(err, keyslot.ErrWrongKey) && !errors.Is(err, kek.ErrWrongKey) {
				t.Errorf("%s: %v, %v", name, key, err)
			}
		}
		set(t, c, id, good)
		n.opens(t, c)
	})
}

// flip changes one bit of a member that is base64.
func flip(t testing.TB, token, member string) string {
	t.Helper()
	var all map[string]any
	if err := json.Unmarshal([]byte(token), &all); err != nil {
		t.Fatal(err)
	}
	text := all[member].(string)
	changed := "A" + text[1:]
	if changed == text {
		changed = "B" + text[1:]
	}
	return strings.Replace(token, text, changed, 1)
}

// A token that was made for another header is told as such, and nothing is changed because of it.
func TestForeignToken(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		c := n.formatted(t, l.blank(t))
		id, good := find(t, c, keyslot.TypeAgent)
		set(t, c, id, strings.Replace(good, uuid, "ffffffff-4a4c-4d5e-9a4e-0f1d2c3b4a59", 1))
		_, _, unlock := keyslot.Unlock(t.Context(), c, n.Keyring)
		for what, err := range map[string]error{
			"unlock": unlock, "complete": keyslot.Complete(t.Context(), c, n.Keyring), "volume": keyslot.SetVolume(c, volumeToken()),
		} {
			var foreign *keyslot.ForeignTokenError
			if !errors.As(err, &foreign) || foreign.Header != uuid || foreign.UUID == uuid || foreign.ID != id {
				t.Errorf("%s: %v", what, err)
			}
		}
		// The other slot is not hidden by it.
		if slot := n.recovers(t, c); slot != 30 {
			t.Errorf("recovery slot %d", slot)
		}
	})
}

// A token of a later voluks is never touched, nor is anything beside it, and what can be opened
// opens.
func TestUnknownVersion(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		start := l.blank(t)
		c := n.formatted(t, start)
		later := `{"type":"voluks-journal","keyslots":[],"v":2,"plan":{"a":[1,2]}}`
		id := set(t, c, -1, later)
		n.opens(t, c)
		n.recovers(t, c)
		p := start()
		for what, err := range map[string]error{
			"complete": keyslot.Complete(t.Context(), p.c, n.Keyring), "volume": keyslot.SetVolume(p.c, volumeToken()),
		} {
			var version *keyslot.VersionError
			if !errors.Is(err, keyslot.ErrUnknownVersion) || !errors.As(err, &version) || version.ID != id || version.Version != "2" {
				t.Errorf("%s: %v", what, err)
			}
		}
		if err := keyslot.Format(t.Context(), p.c, n.Keyring, params()); !errors.Is(err, keyslot.ErrNotOurs) {
			t.Errorf("format: %v", err)
		}
		h, err := c.Header()
		if err != nil {
			t.Fatal(err)
		}
		if p.steps() != 0 || string(h.Tokens[id].JSON) != later || !keyslot.Managed(h) {
			t.Errorf("%d writes; the token is %s", p.steps(), h.Tokens[id].JSON)
		}
		// The agent's token itself is of a later version.
		agent, good := find(t, c, keyslot.TypeAgent)
		set(t, c, agent, strings.Replace(good, `"v":1`, `"v":2`, 1))
		if _, _, err := keyslot.Unlock(t.Context(), c, n.Keyring); !errors.Is(err, keyslot.ErrNoAgentSlot) || !errors.Is(err, keyslot.ErrUnknownVersion) {
			t.Errorf("unlock: %v", err)
		}
	})
}

func TestConflictingTokens(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		c := n.formatted(t, l.blank(t))
		_, good := find(t, c, keyslot.TypeAgent)
		for name, token := range map[string]string{
			"the same slot":       good,
			"the recovery's slot": strings.Replace(good, `["31"]`, `["30"]`, 1),
			"not ours to know":    `{"type":"voluks-other","keyslots":[],"v":1}`,
			"malformed":           `{"type":"voluks-volume","keyslots":[],"v":1}`,
		} {
			id := set(t, c, -1, token)
			h, err := c.Header()
			if err != nil {
				t.Fatal(err)
			}
			_, err = keyslot.State(h)
			var bad *keyslot.TokenError
			if !errors.Is(err, keyslot.ErrToken) || !errors.As(err, &bad) || bad.ID != id {
				t.Errorf("%s: %v", name, err)
			}
			if err := keyslot.SetVolume(c, volumeToken()); !errors.Is(err, keyslot.ErrToken) {
				t.Errorf("%s: volume: %v", name, err)
			}
			if err := c.RemoveToken(id); err != nil {
				t.Fatal(err)
			}
		}
		n.whole(t, c)
	})
}

// F40: why a volume stays locked is told by the error, and both of two agent slots are tried, the
// newer one first, as a rotation may leave them.
func TestUnlock(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		c := n.formatted(t, l.blank(t))
		for _, state := range []error{kek.ErrUnavailable, kek.ErrDenied, kek.ErrDisabled} {
			n.provider.Fail(state)
			if _, key, err := keyslot.Unlock(t.Context(), c, n.Keyring); key != nil || !errors.Is(err, state) {
				t.Errorf("%v: %v, %v", state, key, err)
			}
		}
		n.provider.Fail(nil)
		stopped, stop := context.WithCancel(t.Context())
		stop()
		if _, key, err := keyslot.Unlock(stopped, c, n.Keyring); key != nil || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v, %v", key, err)
		}

		slot, key, err := keyslot.Unlock(t.Context(), c, n.Keyring)
		if err != nil {
			t.Fatal(err)
		}
		defer key.Wipe()
		if err := c.AddSlot(luks.Auth{Slot: slot, Key: key}, 29, randomKey(t), luks.KDFRandomKey); err != nil {
			t.Fatal(err)
		}
		_, good := find(t, c, keyslot.TypeAgent)
		// A second token of the agent that does not open, newer by what it says.
		set(t, c, -1, strings.NewReplacer(`["31"]`, `["29"]`, `"generation":1`, `"generation":2`).Replace(good))
		if s := state(t, c); len(s.Slots) != 3 || s.Slots[2].Number != 29 || s.Slots[2].Generation != 2 {
			t.Errorf("slots %+v", s.Slots)
		}
		calls := n.provider.Calls()
		if got := n.opens(t, c); got != slot {
			t.Errorf("opened slot %d", got)
		}
		if asked := n.provider.Calls() - calls; asked != 2 {
			t.Errorf("the provider was asked %d times: the older token came first", asked)
		}
	})
}

// F39: a master key that was replaced by another does not open, and the error names both.
func TestReplacedMasterKey(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		cfg := config.Default(config.PathsUnder(t.TempDir()))
		path := cfg.KEK.File.Path
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		generate := func() string {
			ref, err := file.Generate(path)
			if err != nil {
				t.Fatal(err)
			}
			return ref.ID
		}
		open := func() *keyslot.Keyring {
			k, err := keyslot.OpenKeyring(cfg)
			if err != nil {
				t.Fatal(err)
			}
			return k
		}
		cfg.Recovery.None = true
		first := generate()
		c := l.blank(t)().c
		if err := keyslot.Format(t.Context(), c, open(), params()); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path, path+".old"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := keyslot.Unlock(t.Context(), c, open()); !errors.Is(err, keyfile.ErrMissing) || !strings.Contains(err.Error(), first) {
			t.Errorf("missing: %v", err)
		}
		second := generate()
		_, _, err := keyslot.Unlock(t.Context(), c, open())
		var none *kek.NoProviderError
		if !errors.As(err, &none) || none.Want.ID != first || none.Have[0].ID != second {
			t.Errorf("replaced: %v", err)
		}
		// The old one stays configured to unwrap.
		cfg.Previous = []config.KEK{{Provider: "file", File: &config.File{Path: path + ".old"}}}
		slot, key, err := keyslot.Unlock(t.Context(), c, open())
		if err != nil {
			t.Fatal(err)
		}
		defer key.Wipe()
		if err := keyslot.Prove(c, slot, key); err != nil {
			t.Error(err)
		}
	})
}

func TestOpenKeyring(t *testing.T) {
	n := newNode(t)
	cfg := config.Default(config.PathsUnder(t.TempDir()))
	recipient := n.Recipients[0].String()
	for name, test := range map[string]struct {
		recovery   config.Recovery
		recipients int
		none       bool
	}{
		"confirmed":     {config.Recovery{Recipients: []string{recipient}, Confirmed: true}, 1, false},
		"not confirmed": {config.Recovery{Recipients: []string{recipient}}, 0, false},
		"none":          {config.Recovery{None: true}, 0, true},
		"not set":       {config.Recovery{}, 0, false},
	} {
		cfg.Recovery = test.recovery
		k, err := keyslot.OpenKeyring(cfg)
		if err != nil || len(k.Recipients) != test.recipients || k.NoRecovery != test.none {
			t.Errorf("%s: %+v, %v", name, k, err)
			continue
		}
		k.KEK = kektest.NewMemory("x").Set()
		err = keyslot.Format(t.Context(), &stepper{Container: luks.At("/nonexistent")}, k, params())
		if errors.Is(err, keyslot.ErrNoRecovery) != (test.recipients == 0 && !test.none) {
			t.Errorf("%s: %v", name, err)
		}
	}
	cfg.Recovery = config.Recovery{Recipients: []string{recipient[:len(recipient)-1] + "p"}, Confirmed: true}
	if recipient[len(recipient)-1] == 'p' {
		cfg.Recovery.Recipients[0] = recipient[:len(recipient)-1] + "q"
	}
	var setting *kek.ConfigError
	if _, err := keyslot.OpenKeyring(cfg); !errors.As(err, &setting) || setting.Setting != "recovery.recipients" || !errors.Is(err, recovery.ErrRecipient) {
		t.Errorf("bad checksum: %v", err)
	}
}

// The recovery slot without voluks: the token's "age" member, age, and cryptsetup.
func TestRecoverWithAgeAndCryptsetup(t *testing.T) {
	age, cryptsetup := tool(t, "age"), tool(t, "cryptsetup")
	n := newNode(t)
	path := image(t)
	if err := keyslot.Format(t.Context(), luks.At(path), n.Keyring, params()); err != nil {
		t.Fatal(err)
	}
	identity := filepath.Join(t.TempDir(), "identity.txt")
	if err := os.WriteFile(identity, append(bytes.Clone(n.identity.Bytes()), '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(stdin []byte, name string, args ...string) []byte {
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Stdin = bytes.NewReader(stdin)
		var complaints bytes.Buffer
		cmd.Stderr = &complaints
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s %v: %v: %s", filepath.Base(name), args, err, complaints.Bytes())
		}
		return out
	}
	id, _ := find(t, luks.At(path), keyslot.TypeRecovery)
	var token struct {
		Age string `json:"age"`
	}
	if err := json.Unmarshal(run(nil, cryptsetup, "token", "export", "--token-id", fmt.Sprint(id), path), &token); err != nil {
		t.Fatal(err)
	}
	key := run([]byte(token.Age), age, "--decrypt", "-i", identity)
	if len(key) != keyslot.KeySize {
		t.Fatalf("age gives %d bytes", len(key))
	}
	run(key, cryptsetup, "open", "--test-passphrase", "--key-file", "-", path)
	run(key, cryptsetup, "open", "--test-passphrase", "--key-slot", "30", "--key-file", "-", path)
	clear(key)
}

func TestRecoverWithWrongIdentity(t *testing.T) {
	everywhere(t, func(t *testing.T, l lab) {
		n, other := newNode(t), newNode(t)
		c := n.formatted(t, l.blank(t))
		if _, key, err := keyslot.UnlockRecovery(c, other.identities); key != nil || !errors.Is(err, recovery.ErrWrongIdentity) {
			t.Errorf("%v, %v", key, err)
		}
		if _, key, err := keyslot.UnlockRecovery(c, nil); key != nil || !errors.Is(err, recovery.ErrWrongIdentity) {
			t.Errorf("no identity: %v, %v", key, err)
		}
		id, good := find(t, c, keyslot.TypeRecovery)
		set(t, c, id, strings.Replace(good, `BEGIN AGE ENCRYPTED FILE-----\n`, `BEGIN AGE ENCRYPTED FILE-----\nAAAA`, 1))
		if _, key, err := keyslot.UnlockRecovery(c, n.identities); key != nil || !errors.Is(err, recovery.ErrSealed) {
			t.Errorf("tampered: %v, %v", key, err)
		}
	})
}
