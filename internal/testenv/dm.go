// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// DM makes a device-mapper device with that table (lines of "start length type params") through dmsetup, and returns the path of its node. At the end
// of the test it is resumed, if need be with a table that fails all I/O so that nothing can wait on it for ever, and removed. It calls Guest.
func DM(t testing.TB, name, table string) string {
	t.Helper()
	Guest(t)
	dmsetup(t, table, "create", name, "--noudevsync", "--noudevrules")
	t.Cleanup(func() {
		// A suspended device blocks its users, and they block its removal.
		_, _ = tryDmsetup("", "resume", name, "--noudevsync")
		var err error
		var out string
		for end := time.Now().Add(settle); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			if out, err = tryDmsetup("", "remove", name, "--noudevsync"); err == nil || strings.Contains(out, "No such device") {
				return
			}
		}
		t.Errorf("dmsetup remove %s: %v: %s", name, err, out)
	})
	return filepath.Join("/dev/mapper", name)
}

// DMReload replaces the table of a device made with DM, as when a disk breaks (error), reads as zeros (zero) or comes back.
func DMReload(t testing.TB, name, table string) {
	t.Helper()
	dmsetup(t, "", "suspend", name, "--nolockfs", "--noflush", "--noudevsync")
	dmsetup(t, table, "load", name)
	dmsetup(t, "", "resume", name, "--noudevsync")
}

// DMSuspend suspends a device made with DM: from now on I/O on it blocks until DMResume or the end of the test.
func DMSuspend(t testing.TB, name string) {
	t.Helper()
	dmsetup(t, "", "suspend", name, "--nolockfs", "--noflush", "--noudevsync")
}

// DMResume ends what DMSuspend began.
func DMResume(t testing.TB, name string) {
	t.Helper()
	dmsetup(t, "", "resume", name, "--noudevsync")
}

func dmsetup(t testing.TB, stdin string, args ...string) {
	t.Helper()
	if out, err := tryDmsetup(stdin, args...); err != nil {
		t.Fatalf("dmsetup %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func tryDmsetup(stdin string, args ...string) (string, error) {
	cmd := exec.Command("dmsetup", args...)
	// Without it dmsetup waits for a udev that the small guest does not have.
	cmd.Env = append(os.Environ(), "DM_DISABLE_UDEV=1", "LC_ALL=C")
	if stdin != "" {
		cmd.Stdin = strings.NewReader(stdin)
	}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
