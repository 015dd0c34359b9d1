// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/voluks/voluks/internal/secret"
)

func TestLoan(t *testing.T) {
	key, err := secret.Random(100)
	if err != nil {
		t.Fatal(err)
	}
	l := Lend(key)
	for range 2 {
		got, err := io.ReadAll(iotest.OneByteReader(l.Body()))
		if err != nil || !bytes.Equal(got, key.Bytes()) {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
	}
	late := l.Body()
	if n, err := late.Read(make([]byte, 10)); n != 10 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	l.End()
	key.Wipe()
	if n, err := late.Read(make([]byte, 10)); n != 0 || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("after the loan: %d, %v", n, err)
	}
}
