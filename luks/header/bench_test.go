// SPDX-License-Identifier: Apache-2.0

package header_test

import (
	"testing"

	"github.com/voluks/voluks/luks/header"
)

func BenchmarkRead(b *testing.B) {
	d := disk{pair(metadata), space}
	for b.Loop() {
		h, err := header.Read(d, space)
		if err != nil {
			b.Fatal(err)
		}
		if err := h.Strict(header.Expect{}); err != nil {
			b.Fatal(err)
		}
	}
}
