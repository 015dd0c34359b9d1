// SPDX-License-Identifier: Apache-2.0

package headerbackup

import "testing"

// What a backup adds to each rotation.
func BenchmarkTakeAndRetire(b *testing.B) {
	n, v := newNode(b), newVolume(b, testUUID)
	b.ReportAllocs()
	for b.Loop() {
		backup := take(b, n, v)
		if _, err := n.Retire(testUUID, backup.Name.String()); err != nil {
			b.Fatal(err)
		}
	}
}
