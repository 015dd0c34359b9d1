// SPDX-License-Identifier: Apache-2.0

package kektest

import (
	"os"
	"runtime/debug"
	"strings"
	"testing"
)

// stopCollector turns the garbage collector off and returns what turns it on again.
func stopCollector() func() {
	percent := debug.SetGCPercent(-1)
	return func() { debug.SetGCPercent(percent) }
}

// lockedMemory is what the kernel says that this process has locked.
func lockedMemory(t *testing.T) string {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(status), "VmLck:")
	if !found {
		t.Fatal("/proc/self/status does not tell the locked memory")
	}
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}
