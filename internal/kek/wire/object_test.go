// SPDX-License-Identifier: Apache-2.0

package wire_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/voluks/voluks/internal/kek/wire"
	"github.com/voluks/voluks/internal/secret"
)

func TestObject(t *testing.T) {
	key, err := secret.Random(32)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	for members, public := range []any{map[string]string{}, map[string]string{"a": "b"}, struct {
		Op string `json:"op"`
		N  []int
	}{`q"}`, []int{1}}} {
		object, err := wire.Object(public, `pl"ain`, key)
		if err != nil {
			t.Fatal(err)
		}
		defer object.Wipe()
		var got map[string]json.RawMessage
		if err := json.Unmarshal(object.Bytes(), &got); err != nil {
			t.Fatalf("%v in %s", err, object.Bytes())
		}
		var plain []byte
		if err := json.Unmarshal(got[`pl"ain`], &plain); err != nil || !bytes.Equal(plain, key.Bytes()) {
			t.Errorf("got %x, %v", plain, err)
		}
		if len(got) != members+1 {
			t.Errorf("public members are lost: %s", object.Bytes())
		}
	}
	bare, err := wire.Object(map[string]string{"a": "b"}, "k", nil)
	if err != nil || string(bare.Bytes()) != `{"a":"b"}` {
		t.Errorf("without a key: %v", err)
	}
	bare.Wipe()
	for _, bad := range []any{[]int{1}, "x", nil} {
		if object, err := wire.Object(bad, "k", key); err == nil {
			t.Errorf("%v gave %s", bad, object.Bytes())
		}
	}
}
