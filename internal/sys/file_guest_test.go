// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/voluks/voluks/internal/testenv"
)

func TestDropCache(t *testing.T) {
	path := filepath.Join(testenv.Ext4Dir(t, 0), "file") // tmpfs has nothing else to keep it in
	must(t, os.WriteFile(path, make([]byte, 1<<20), 0o600))
	cached := func() (n int) {
		f, err := os.Open(path)
		must(t, err)
		defer f.Close()
		m, err := unix.Mmap(int(f.Fd()), 0, 1<<20, unix.PROT_READ, unix.MAP_SHARED)
		must(t, err)
		defer unix.Munmap(m)
		pages := make([]byte, len(m)/os.Getpagesize())
		if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&pages[0]))); errno != 0 {
			t.Fatal(errno)
		}
		for _, p := range pages {
			n += int(p & 1)
		}
		return n
	}
	must(t, SyncFile(path))
	before := cached()
	DropCache(path)
	if after := cached(); before == 0 || after > 0 {
		t.Errorf("%d pages in memory before, %d after", before, after)
	}
}
