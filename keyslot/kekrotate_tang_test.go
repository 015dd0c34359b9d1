// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"testing"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/clevis"
	"github.com/voluks/voluks/internal/kek/realtest"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/keyslot"
)

// F29: the keys of a real tang server are rotated under a volume. The new thumbprint in the policy makes the volume due, and once it was moved the old
// keys can be destroyed.
func TestRewrapTang(t *testing.T) {
	testenv.Outside(t)
	server := realtest.NewTang(t)
	everywhere(t, func(t *testing.T, l lab) {
		n := newNode(t)
		keyring := func() *keyslot.Keyring {
			p, err := clevis.New("kek.clevis", config.Clevis{Pin: "tang", Policy: server.Policy()})
			if err != nil {
				t.Fatal(err)
			}
			k := *n.Keyring
			k.KEK = &kek.Set{Active: p, Previous: []kek.Provider{n.provider.New()}}
			return &k
		}
		c := n.ready(t, l.blank(t))
		rewrap := func(want bool) {
			t.Helper()
			if r, err := keyslot.Rewrap(t.Context(), c, keyring()); err != nil || r.Changed != want {
				t.Fatalf("got %+v, %v; want it changed: %v", r, err, want)
			}
		}
		rewrap(true) // from the node's first key
		rewrap(false)
		server.Rotate()
		rewrap(true)
		server.DropOld()
		if err := opensWith(t, c, keyring()); err != nil {
			t.Error(err)
		}
		rewrap(false)
	})
}
