// SPDX-License-Identifier: Apache-2.0

// Package testenv says where a test runs, and sees to it that nothing is green by absence and nothing is left behind.
package testenv

import (
	"os"
	"slices"
	"strings"
	"testing"
)

// Environment variables, set by the scripts that run tests.
const (
	// VarGuest is set inside a guest, to its kind ("small", "full").
	VarGuest = "VOLUKS_GUEST"
	// VarRequire is a comma-separated list of what the runner promises to provide; a test that misses one of these fails instead of being skipped.
	VarRequire = "VOLUKS_REQUIRE"
	// VarDevices lists the guest's extra disks, separated by blanks.
	VarDevices = "VOLUKS_GUEST_DEVICES"
)

// Guest ends the test, unless it runs in a guest with device-mapper: as skipped, or as failed where VOLUKS_REQUIRE names "guest". Tests that need
// root or a real kernel call it first.
func Guest(t testing.TB) {
	t.Helper()
	if os.Getenv(VarGuest) == "" {
		Missing(t, "guest", "not in a guest: run it with go test -exec scripts/guest-small")
	}
	if _, err := os.Stat("/dev/mapper/control"); err != nil {
		t.Fatalf("a guest without device-mapper: %v", err)
	}
}

// Outside ends a test that shows the same with any kernel, as skipped, in a guest: the unit tests run it, and there it would only take longer.
func Outside(t testing.TB) {
	t.Helper()
	if os.Getenv(VarGuest) != "" {
		t.Skip("needs no guest: `make unit` runs it")
	}
}

// Disk returns the device of extra disk number n (from 0), which is empty at the start of the guest and has at least that many bytes. It calls Guest
// first. What is missing is "disks" in VOLUKS_REQUIRE. Tests share the disk: they run one after the other and leave it wiped or not as they like,
// so nobody relies on its content.
func Disk(t testing.TB, n int, size int64) string {
	t.Helper()
	Guest(t)
	disks := strings.Fields(os.Getenv(VarDevices))
	if n >= len(disks) {
		Missing(t, "disks", "needs extra disk "+string(rune('0'+n))+": set VOLUKS_GUEST_DISKS, for example to \"512M\"")
	}
	f, err := os.Open(disks[n])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	have, err := f.Seek(0, 2)
	if err != nil {
		t.Fatal(err)
	}
	if have < size {
		Missing(t, "disks", "extra disk "+disks[n]+" is too small: enlarge VOLUKS_GUEST_DISKS")
	}
	return disks[n]
}

// Missing ends the test because the machine lacks a feature: it fails if VOLUKS_REQUIRE names the feature, and is skipped otherwise.
func Missing(t testing.TB, feature, why string) {
	t.Helper()
	if Required(feature) {
		t.Fatalf("%s is required here (%s): %s", feature, VarRequire, why)
	}
	t.Skip(why)
}

// Required tells whether VOLUKS_REQUIRE names the feature.
func Required(feature string) bool {
	return slices.Contains(strings.FieldsFunc(os.Getenv(VarRequire), func(r rune) bool { return r == ',' || r == ' ' }), feature)
}
