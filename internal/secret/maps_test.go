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

// mapped tells whether locked memory is there. The same address may be used again at once, by the Go heap for example, which is not locked.
func mapped(t *testing.T, where uintptr) bool {
	t.Helper()
	return strings.Contains(vmFlags(t, where), " lo ")
}

// vmFlags returns the flags of the mapping, with a blank before and after each; empty if there is none.
func vmFlags(t *testing.T, where uintptr) string {
	t.Helper()
	for _, line := range region(t, where) {
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok {
			return " " + strings.TrimSpace(flags) + " "
		}
	}
	return ""
}
