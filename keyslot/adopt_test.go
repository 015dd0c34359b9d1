// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// foreign makes a container with cryptsetup and its defaults, with a passphrase in slot 0 and a token of somebody else.
func foreign(t testing.TB, args ...string) (path string, auth luks.Auth) {
	t.Helper()
	path = image(t)
	passphrase := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(passphrase, []byte("correct horse"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), tool(t, "cryptsetup"), args...).CombinedOutput(); err != nil {
			t.Fatalf("cryptsetup %q: %v\n%s", args, err, out)
		}
	}
	run(append([]string{"luksFormat", "-q", "--type", "luks2", "--key-file", passphrase, "--pbkdf", "argon2id", "--pbkdf-force-iterations", "4",
		"--pbkdf-memory", "32768", "--pbkdf-parallel", "1", path}, args...)...)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(`{"type":"clevis","keyslots":["0"],"jwe":{"protected":"e30"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	run("token", "import", "--json-file", token, path)
	key, err := secret.Move([]byte("correct horse"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Wipe)
	return path, luks.Auth{Slot: 0, Key: key}
}

func TestAdopt(t *testing.T) {
	n := newNode(t)
	path, auth := foreign(t)
	c := luks.Foreign(path)
	before, err := c.Header()
	if err != nil {
		t.Fatal(err)
	}
	a, err := keyslot.Adopt(t.Context(), c, n.Keyring, auth)
	if err != nil || !a.Made || a.Slot != 31 || a.UUID != before.UUID {
		t.Fatalf("%+v, %v", a, err)
	}
	if err := opensWith(t, c, n.Keyring); err != nil {
		t.Error(err)
	}
	after, err := c.Header()
	if err != nil {
		t.Fatal(err)
	}
	if len(after.Keyslots) != 2 || len(after.Tokens) != 2 || !reflect.DeepEqual(after.Keyslots[0], before.Keyslots[0]) ||
		!reflect.DeepEqual(after.Tokens[0], before.Tokens[0]) || !reflect.DeepEqual(after.Segments, before.Segments) {
		t.Errorf("changed beyond the new slot and its token:\n%+v\n%+v", before, after)
	}

	// Others try it first: the passphrase's slot takes long. F42
	if p := after.Keyslots[31].Priority; p == nil || *p != 2 {
		t.Errorf("the priority of the agent slot is %v", p)
	}

	// Again: nothing, without the key even.
	again, err := keyslot.Adopt(t.Context(), c, n.Keyring, luks.Auth{})
	if err != nil || again.Made || again.Slot != 31 {
		t.Errorf("a second time: %+v, %v", again, err)
	}
	if h, err := c.Header(); err != nil || h.Epoch != after.Epoch {
		t.Errorf("a second time wrote: epoch %d, was %d, %v", h.Epoch, after.Epoch, err)
	}
}

// What is refused leaves the header as it was.
func TestAdoptRefused(t *testing.T) {
	n := newNode(t)
	wrong := randomKey(t)
	for name, test := range map[string]struct {
		args []string
		auth func(luks.Auth) luks.Auth
		away error
		want error // nil: a *header.StrictError
	}{
		"wrong key":     {auth: func(a luks.Auth) luks.Auth { return luks.Auth{Slot: 0, Key: wrong} }, want: luks.ErrWrongKey},
		"no such slot":  {auth: func(a luks.Auth) luks.Auth { return luks.Auth{Slot: 5, Key: a.Key} }, want: luks.ErrNoSlot},
		"provider away": {auth: func(a luks.Auth) luks.Auth { return a }, away: kek.ErrUnavailable, want: kek.ErrUnavailable},
		"other cipher":  {args: []string{"--cipher", "aes-cbc-essiv:sha256", "--key-size", "256"}, auth: func(a luks.Auth) luks.Auth { return a }},
	} {
		t.Run(name, func(t *testing.T) {
			path, auth := foreign(t, test.args...)
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			n.provider.Fail(test.away)
			defer n.provider.Fail(nil)
			_, err = keyslot.Adopt(t.Context(), luks.Foreign(path), n.Keyring, test.auth(auth))
			var strict *header.StrictError
			if test.want != nil && !errors.Is(err, test.want) || test.want == nil && !errors.As(err, &strict) {
				t.Errorf("%v, want %v", err, test.want)
			}
			after, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(before) != string(after) {
				t.Error("the container was changed")
			}
		})
	}
}

// Cut after each write: the passphrase opens it all the time, and the next adoption leaves one slot and one token more than there were. F29 F32
func TestAdoptCutShort(t *testing.T) {
	n := newNode(t)
	original, auth := foreign(t)
	fresh, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range []string{diesAfter, failsAt} {
		for k := 1; ; k++ {
			path := image(t)
			if err := os.WriteFile(path, fresh, 0o600); err != nil {
				t.Fatal(err)
			}
			s := &stepper{Container: luks.Foreign(path)}
			if way == diesAfter {
				s.dieAfter = k
			} else {
				s.failAt = k
			}
			_, err := keyslot.Adopt(t.Context(), s, n.Keyring, auth)
			if s.n < k {
				if k < 4 {
					t.Fatalf("only %d writes", k-1)
				}
				break
			}
			if err == nil && way == failsAt {
				t.Errorf("write %d failed, and nothing was said", k)
			}
			c := luks.Foreign(path)
			if err := c.TestSlot(0, auth.Key); err != nil {
				t.Errorf("%s %d: the passphrase: %v", way, k, err)
			}
			if _, err := keyslot.Adopt(t.Context(), c, n.Keyring, auth); err != nil {
				t.Errorf("%s %d: again: %v", way, k, err)
				continue
			}
			h, err := c.Header()
			if err != nil {
				t.Fatal(err)
			}
			slots, err := keyslot.State(h)
			if err != nil || len(h.Keyslots) != 2 || len(h.Tokens) != 2 || slots.Interrupted() {
				t.Errorf("%s %d: %d slots, %d tokens, %v", way, k, len(h.Keyslots), len(h.Tokens), err)
			}
			if err := opensWith(t, c, n.Keyring); err != nil {
				t.Errorf("%s %d: %v", way, k, err)
			}
		}
	}
}
