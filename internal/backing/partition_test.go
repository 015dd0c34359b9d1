// SPDX-License-Identifier: Apache-2.0

package backing

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"testing"
)

func writeAt(t *testing.T, path string, b []byte, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(b, at)
	must(t, err)
	must(t, f.Sync())
}

// mbr writes what a partition tool writes: one partition over all, in the first sector.
func mbr(t *testing.T, path string, kind byte, sectors uint32) {
	t.Helper()
	b := make([]byte, 512)
	b[446+4] = kind
	start := uint32(2048)
	if kind == 0xee {
		start = 1
	}
	binary.LittleEndian.PutUint32(b[446+8:], start)
	binary.LittleEndian.PutUint32(b[446+12:], sectors-start)
	b[510], b[511] = 0x55, 0xaa
	writeAt(t, path, b, 0)
}

// gpt writes a GUID partition table without partitions (UEFI specification, 5.3).
func gpt(t *testing.T, path string, sectors uint32) {
	t.Helper()
	mbr(t, path, 0xee, sectors)
	entries := make([]byte, 128*128)
	h := make([]byte, 512)
	copy(h, "EFI PART\x00\x00\x01\x00\x5c\x00\x00\x00")
	le := binary.LittleEndian
	le.PutUint64(h[24:], 1)
	le.PutUint64(h[32:], uint64(sectors)-1)
	le.PutUint64(h[40:], 34)
	le.PutUint64(h[48:], uint64(sectors)-34)
	copy(h[56:], "0123456789abcdef")
	le.PutUint64(h[72:], 2)
	le.PutUint32(h[80:], 128)
	le.PutUint32(h[84:], 128)
	le.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
	writeAt(t, path, append(h, entries...), 512)
}
