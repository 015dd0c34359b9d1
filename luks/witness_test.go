// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"os"
	"reflect"
	"testing"

	second "github.com/anatol/luks.go"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/luks/header"
)

func unseal(t *testing.T, f *os.File, slot int, key *secret.Key) *second.Volume {
	t.Helper()
	d, err := second.Open(descriptor(f))
	must(t, err)
	defer d.Close()
	v, err := d.UnsealVolume(slot, key.Bytes())
	must(t, err)
	return v
}

func unexported(v any, field string) []byte {
	return reflect.ValueOf(v).Elem().FieldByName(field).Bytes()
}

func TestWitness(t *testing.T) {
	key, wrong := randomKey(t), randomKey(t)
	c := formatted(t, key)
	must(t, c.Witness(agent, key))
	wantError(t, c.Witness(agent, wrong), ErrWrongKey)
	wantError(t, c.Witness(recovery, key), ErrNoSlot)
	wantError(t, c.Witness(-1, key), ErrNoSlot)
	wantError(t, c.Witness(agent, nil), ErrKeyLength)

	// It reads the device and not a cache of the header: with the key material gone, the key opens nothing.
	area := mustHeader(t, c).Keyslots[agent].Area
	overwrite(t, c.Path(), area.Offset+100000, []byte("one stripe is enough"))
	wantError(t, c.Witness(agent, key), ErrWrongKey)
	wantError(t, c.TestSlot(agent, key), ErrWrongKey)

	// It must not see what the strict reader has not accepted, and must not be told of a copy that it does not read.
	overwrite(t, c.Path(), 5000, []byte("x"))
	wantError(t, c.Witness(agent, key), header.ErrDamaged)
}
