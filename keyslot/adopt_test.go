// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/testenv"
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

// cheap is a derivation of the passphrase's slot for tests that try it often.
var cheap = []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--pbkdf-memory", "0", "--pbkdf-parallel", "0"}

// What is refused leaves the header as it was.
func TestAdoptRefused(t *testing.T) {
	testenv.Outside(t)
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
	original, auth := foreign(t, cheap...)
	fresh := inUse(t, original)
	for _, way := range []string{diesAfter, failsAt} {
		for k := 1; ; k++ {
			c, writes, err := cutForeign(t, fresh, way, k, func(c keyslot.Container) error {
				_, err := keyslot.Adopt(t.Context(), c, n.Keyring, auth)
				return err
			})
			if writes < k {
				if writes < 4 || err != nil {
					t.Fatalf("%d writes, %v", writes, err)
				}
				break
			}
			if err == nil && way == failsAt {
				t.Errorf("write %d failed, and nothing was said", k)
			}
			if err := c.TestSlot(0, auth.Key); err != nil {
				t.Errorf("%s %d: the passphrase: %v", way, k, err)
			}
			if _, err := keyslot.Adopt(t.Context(), c, n.Keyring, auth); err != nil {
				t.Errorf("%s %d: again: %v", way, k, err)
				continue
			}
			if err := adoptedInOrder(t, c, n.Keyring); err != nil {
				t.Errorf("%s %d: %v", way, k, err)
			}
		}
	}
}

// cutForeign does an operation on a copy of a container and lets its write k be the last one, or fail. It says how many writes were begun.
func cutForeign(t *testing.T, pieces map[int64][]byte, way string, k int, do func(keyslot.Container) error) (c *luks.Container, writes int, err error) {
	t.Helper()
	path := image(t)
	for at, piece := range pieces {
		write(t, path, piece, at)
	}
	c = luks.Foreign(path)
	s := &stepper{Container: c}
	if way == diesAfter {
		s.dieAfter = k
	} else {
		s.failAt = k
	}
	err = do(s)
	return c, s.n, err
}

// adoptedInOrder checks that there is what the device had and one agent slot, which opens.
func adoptedInOrder(t *testing.T, c keyslot.Container, k *keyslot.Keyring) error {
	t.Helper()
	h, err := c.Header()
	if err != nil {
		return err
	}
	slots, err := keyslot.State(h)
	if err != nil || len(h.Keyslots) != 2 || len(h.Tokens) != 2 || slots.Interrupted() || !slices.Equal(h.Tokens[0].Keyslots, []int{0}) {
		return fmt.Errorf("%d slots, tokens %v, %w", len(h.Keyslots), h.Tokens, err)
	}
	return opensWith(t, c, k)
}

// The agent slot of an adopted device is rotated, moved to another key and revoked by the same steps as that of a volume: cut after each write, the
// passphrase opens it and so does the node, and the same again ends it. A volume that is not finished is no such device. F29 F31 F32 F35 F36
func TestChangeAdopted(t *testing.T) {
	n := newNode(t)
	original, auth := foreign(t, cheap...)
	if _, err := keyslot.Adopt(t.Context(), luks.Foreign(original), n.Keyring, auth); err != nil {
		t.Fatal(err)
	}
	fresh := inUse(t, original)
	both := n.moving(kektest.NewMemory("kek-2"))
	for name, test := range map[string]struct {
		ring   *keyslot.Keyring
		least  int
		do     func(c keyslot.Container, k *keyslot.Keyring) error
		active bool // only the active key opens it then
	}{
		"rotate": {n.Keyring, 6, func(c keyslot.Container, k *keyslot.Keyring) error {
			r, err := keyslot.Rotate(t.Context(), c, k, keyslot.RoleAgent)
			if err == nil && (r.OldSlot == r.NewSlot || r.NewGeneration != r.OldGeneration+1) {
				err = fmt.Errorf("%+v", r)
			}
			return err
		}, false},
		"move": {both, 1, func(c keyslot.Container, k *keyslot.Keyring) error {
			_, err := keyslot.Rewrap(t.Context(), c, k)
			return err
		}, true},
		"revoke": {both, 6, func(c keyslot.Container, k *keyslot.Keyring) error {
			_, err := keyslot.Revoke(t.Context(), c, k, "kek-1")
			return err
		}, true},
	} {
		for _, way := range []string{diesAfter, failsAt} {
			if way == failsAt && name != "rotate" {
				continue // it leaves what the death before it leaves
			}
			for k := 1; ; k++ {
				c, writes, err := cutForeign(t, fresh, way, k, func(c keyslot.Container) error { return test.do(c, test.ring) })
				if err := errors.Join(c.TestSlot(0, auth.Key), opensWith(t, c, test.ring)); err != nil {
					t.Errorf("%s, %s %d: %v", name, way, k, err)
				}
				if writes < k {
					if writes < test.least || err != nil {
						t.Errorf("%s: %d writes, %v", name, writes, err)
					}
					break
				}
				if err := test.do(c, test.ring); err != nil {
					t.Errorf("%s, %s %d: again: %v", name, way, k, err)
				}
				if err := adoptedInOrder(t, c, test.ring); err != nil {
					t.Errorf("%s, %s %d: %v", name, way, k, err)
				}
				if err := opensWith(t, c, n.Keyring); (err != nil) != test.active {
					t.Errorf("%s, %s %d: with the first key: %v", name, way, k, err)
				}
			}
		}
	}
	// Others try the new slot first. F42
	c := luks.Foreign(original)
	if _, err := keyslot.Rotate(t.Context(), c, n.Keyring, keyslot.RoleAgent); err != nil {
		t.Fatal(err)
	}
	h, err := c.Header()
	if err != nil {
		t.Fatal(err)
	}
	if p := h.Keyslots[30].Priority; p == nil || *p != 2 {
		t.Errorf("the priority of the new slot is %v", p)
	}
	if _, err := keyslot.Rotate(t.Context(), luks.At(original), n.Keyring, keyslot.RoleAgent); !errors.Is(err, keyslot.ErrNotReady) {
		t.Errorf("as a volume: %v", err)
	}
}
