// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"os/exec"
	"syscall"
	"testing"
)

// Ext4Dir makes an ext4 file system on extra disk n and returns a directory on it, unmounted at the end of the test. Unlike the guest's own
// directories (tmpfs and hostfs) it has direct I/O, fallocate and all attributes.
func Ext4Dir(t testing.TB, n int) string {
	t.Helper()
	return mounted(t, Disk(t, n, 64<<20), "ext4", "mkfs.ext4", "-q", "-F", "-E", "nodiscard")
}

// BtrfsDir is Ext4Dir with btrfs, which needs a disk of 128 MiB.
func BtrfsDir(t testing.TB, n int) string {
	t.Helper()
	return mounted(t, Disk(t, n, 128<<20), "btrfs", "mkfs.btrfs", "-q", "-f", "-K")
}

func mounted(t testing.TB, dev, fstype string, mkfs ...string) string {
	t.Helper()
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], dev)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", mkfs[0], err, out)
	}
	dir := t.TempDir()
	if err := syscall.Mount(dev, dir, fstype, 0, ""); err != nil {
		t.Fatalf("mount %s: %v", dev, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}
