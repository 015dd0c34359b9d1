// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"
)

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }

// region returns the lines of smaps about the mapping that holds the address.
func region(t *testing.T, where uintptr) []string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	in := false
	for _, line := range strings.Split(string(b), "\n") {
		var from, to uintptr
		if n, _ := fmt.Sscanf(line, "%x-%x ", &from, &to); n == 2 {
			in = from <= where && where < to
		}
		if in {
			lines = append(lines, line)
		}
	}
	return lines
}

func mapped(t *testing.T, where uintptr) bool { return len(region(t, where)) > 0 }

func vmFlags(t *testing.T, where uintptr) string {
	t.Helper()
	for _, line := range region(t, where) {
		if flags, ok := strings.CutPrefix(line, "VmFlags: "); ok {
			return strings.TrimSpace(flags)
		}
	}
	t.Fatal("the kernel shows no VmFlags for the key's memory")
	return ""
}
