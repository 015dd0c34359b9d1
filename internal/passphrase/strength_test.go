// SPDX-License-Identifier: Apache-2.0

package passphrase

import (
	"errors"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func key(t *testing.T, text string) *secret.Key {
	t.Helper()
	k, err := secret.Move([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Wipe)
	return k
}

// F34: what is long and still guessed at once is refused, and so is nothing at all.
func TestWeak(t *testing.T) {
	for _, text := range []string{
		"a", "hunter2", "password1234", "Password1234!", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "passwordpasswordpasswordpassword",
		"qwertyuiopasdfghjklzxcvbnm", "poiuytrewqlkjhgfdsa", "12345678901234567890123456789012345678901234567890", "abcdefghijklmnopqrstuvwxyz0123456789",
		"2026-11-26", "summertime2026", "correct horse battery staple", "to be or not to be", "xK9!xK9!xK9!xK9!xK9!xK9!xK9!", "letmein letmein letmein",
	} {
		var weak *WeakError
		err := Check(key(t, text))
		if !errors.As(err, &weak) || weak.Bits < 1 || weak.Bits >= Floor {
			t.Errorf("%q: %v", text, err)
		} else if strings.Contains(err.Error(), text) && len(text) > 1 {
			t.Errorf("%q is repeated in %v", text, err)
		}
	}
	for _, k := range []*secret.Key{nil, new(secret.Key)} {
		if err := Check(k); err == nil {
			t.Error("nothing is taken for a passphrase")
		}
	}
}

func TestStrong(t *testing.T) {
	for _, text := range []string{
		"walnut-ferry-glacier-mosaic-tundra", "Velvet compass orchid thunder maple", "9x2Kq-7vT4w-m3Zr8", "k3$Vq9!xL2#w", "n8r2 k5t7 w3x9 p4q6",
		"zaunkönig gießkanne flöte müsli übermut", "cbdefghi-jklnrtuv-ivuhrtgl-kjcdfebn",
	} {
		if err := Check(key(t, text)); err != nil {
			t.Errorf("%q: %v (%.0f bits)", text, err, Bits(key(t, text)))
		}
	}
}
