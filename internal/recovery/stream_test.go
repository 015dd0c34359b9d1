// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"bytes"
	"errors"
	"io"
	"testing"
)

func TestStream(t *testing.T) {
	a, b, other := newPerson(t), newPerson(t), newPerson(t)
	content := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	var file bytes.Buffer
	w, err := Encrypt(&file, []Recipient{a.recipient, b.recipient})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []person{a, b} {
		got, err := decrypted(file.Bytes(), p.identities)
		if err != nil || !bytes.Equal(got, content) {
			t.Errorf("%d bytes came back: %v", len(got), err)
		}
	}
	for _, cut := range []int{file.Len() - 1, file.Len() / 2, 10, 0} {
		if _, err := decrypted(file.Bytes()[:cut], a.identities); err == nil {
			t.Errorf("cut to %d of %d bytes it is taken for whole", cut, file.Len())
		}
	}
	if _, err := decrypted(file.Bytes(), other.identities); !errors.Is(err, ErrWrongIdentity) {
		t.Errorf("another identity: %v", err)
	}
	if _, err := decrypted(file.Bytes(), nil); !errors.Is(err, ErrWrongIdentity) {
		t.Errorf("no identity: %v", err)
	}
	if _, err := decrypted([]byte("not age"), other.identities); !errors.Is(err, ErrSealed) {
		t.Errorf("no age file: %v", err)
	}
	if _, err := Encrypt(&file, nil); !errors.Is(err, ErrNoRecipient) {
		t.Errorf("no recipient: %v", err)
	}
	if _, err := Encrypt(&file, make([]Recipient, 1)); !errors.Is(err, ErrRecipient) {
		t.Errorf("the zero recipient: %v", err)
	}
}

func decrypted(file []byte, identities []Identity) ([]byte, error) {
	r, err := Decrypt(bytes.NewReader(file), identities)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}
