// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"testing"
)

func TestLockedFreeZeroesBeforeItUnmaps(t *testing.T) {
	b, err := LockedAlloc(5000)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != 5000 || cap(b)%4096 != 0 || !bytes.Equal(b, make([]byte, 5000)) {
		t.Fatalf("%d bytes of %d, zero: %t", len(b), cap(b), bytes.Equal(b, make([]byte, 5000)))
	}
	all := b[:cap(b)]
	for i := range all {
		all[i] = 'x'
	}
	// A slice that is not a whole mapping cannot be unmapped, so that what became of the bytes can be seen.
	if err := LockedFree(b[1:]); err == nil {
		t.Fatal("unmapped a part")
	}
	if all[0] != 'x' || !bytes.Equal(all[1:], make([]byte, len(all)-1)) {
		t.Error("the memory was not zeroed up to its capacity")
	}
	if err := LockedFree(b); err != nil {
		t.Error(err)
	}
	for _, n := range []int{0, -1, 1<<30 + 1} {
		if _, err := LockedAlloc(n); err == nil {
			t.Errorf("allocated %d bytes", n)
		}
	}
}
