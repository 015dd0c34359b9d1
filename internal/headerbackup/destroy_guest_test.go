// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/voluks/voluks/internal/atomicfile"
	"github.com/voluks/voluks/internal/testenv"
)

// What is said of a backup that was destroyed is as true as what is said of a volume: the same kind of file system does not always overwrite in place.
func TestGuestDestroyTellsTheTruth(t *testing.T) {
	disk := testenv.Disk(t, 0, 64<<20)
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", disk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	destroyed := func(dir string) string {
		t.Helper()
		path := filepath.Join(dir, "g1.age")
		if err := atomicfile.Write(path, make([]byte, 20000), 0o600); err != nil {
			t.Fatal(err)
		}
		how, err := destroy(path)
		if err != nil {
			t.Fatal(err)
		}
		return how
	}
	for options, want := range map[string]string{"": OverwrittenInPlace, "data=journal": LogicalOnly} {
		dir := t.TempDir()
		if err := syscall.Mount(disk, dir, "ext4", 0, options); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("/sys/block/"+filepath.Base(disk)+"/queue/rotational", []byte("1"), 0); err != nil { // only such disks overwrite in place
			t.Fatal(err)
		}
		if got := destroyed(dir); got != want {
			t.Errorf("on ext4 with %q: %s, want %s", options, got, want)
		}
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
	}
	if got := destroyed(t.TempDir()); got != LogicalOnly {
		t.Errorf("in memory: %s", got)
	}
}
