// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/testenv"
)

const (
	volumes = 50 // of voluks
	lines   = 4  // of crypttab; what they take is scaled up to as many as there are volumes
	memory  = 128 << 20
)

// All volumes that are mounted at boot, unlocked and mounted by systemd, against as many lines of crypttab with slots as cryptsetup makes them. It needs systemd, and
// so the full guest: one CPU, so Argon2id of one line after the other takes as many times as long. The units of voluks live in 128 MB. F42
func TestBoot(t *testing.T) {
	if os.Getenv(testenv.VarGuest) != "full" {
		testenv.Missing(t, "full", "not in the full guest: run scripts/bench")
	}
	bootDisk(t)
	sh(t, "voluks", "init", "--recovery-identity-file", "/root/recovery-identity.txt")
	sh(t, "voluks", "systemd", "install")
	ours := bootVolumes(t)
	theirs := crypttabLines(t)
	sh(t, "systemctl", "daemon-reload")

	slow := timed(func() { sh(t, append([]string{"systemctl", "start"}, theirs...)...) }) * volumes / lines
	fast := timed(func() { sh(t, append([]string{"systemctl", "start"}, ours...)...) })
	for i := range volumes {
		if source := sh(t, "findmnt", "-n", "-o", "SOURCE", fmt.Sprintf("/srv/v%d", i)); !strings.HasPrefix(source, "/dev/mapper/voluks-") {
			t.Fatalf("/srv/v%d is on %q", i, source)
		}
	}
	slice := "/sys/fs/cgroup/bench.slice"
	peak, err := strconv.Atoi(strings.TrimSpace(read(t, filepath.Join(slice, "memory.peak"))))
	if err != nil {
		t.Fatal(err)
	}
	if events := read(t, filepath.Join(slice, "memory.events")); !strings.Contains(events, "oom_kill 0") {
		t.Errorf("128 MB were not enough: %s", events)
	}
	t.Logf("FIGURE memory of the units of %d volumes at boot: %d MB at most, of %d", volumes, peak>>20, memory>>20)
	report(t, fmt.Sprintf("%d volumes unlocked and mounted at boot / %d lines of crypttab with Argon2id (%d measured)", volumes, volumes, lines), fast, slow, 1.0/5)
}

// bootDisk puts the volumes on the extra disk.
func bootDisk(t *testing.T) {
	t.Helper()
	sh(t, "mkfs.ext4", "-q", "-F", "/dev/ubdb")
	sh(t, "mkdir", "-p", "/var/lib/voluks")
	sh(t, "mount", "/dev/ubdb", "/var/lib/voluks")
}

// bootVolumes makes the volumes with their mount units, all of which run in a slice of 128 MB, and returns the units.
func bootVolumes(t *testing.T) (units []string) {
	t.Helper()
	write(t, "/run/systemd/system/bench.slice", fmt.Sprintf("[Slice]\nMemoryMax=%d\nMemorySwapMax=0\n", memory))
	write(t, "/run/systemd/system/voluks-volume@.service.d/bench.conf", "[Service]\nSlice=bench.slice\n")
	for i := range volumes {
		name := fmt.Sprintf("v%d", i)
		sh(t, "voluks", "volume", "create", "--size", "16M", name)
		sh(t, "voluks", "--root", "/", "boot", "enable", name, "--mount", "/srv/"+name) // with a root it leaves the reload of systemd to us, once for all
		unit := "srv-" + name + ".mount"
		write(t, "/run/systemd/system/"+unit+".d/bench.conf", "[Mount]\nSlice=bench.slice\n")
		units = append(units, unit)
	}
	return units
}

// crypttabLines makes devices with the slots that cryptsetup makes, and lines for them in crypttab and fstab, and returns their mount units.
func crypttabLines(t *testing.T) (units []string) {
	t.Helper()
	var crypttab, fstab strings.Builder
	write(t, "/root/bench.key", strings.Repeat("k", 32))
	for i := range lines {
		name := fmt.Sprintf("t%d", i)
		image := "/root/" + name + ".img"
		sh(t, "truncate", "-s", "32M", image)
		sh(t, "cryptsetup", "luksFormat", "-q", "--key-file", "/root/bench.key", image)
		sh(t, "cryptsetup", "open", "--key-file", "/root/bench.key", image, name)
		sh(t, "mkfs.ext4", "-q", "/dev/mapper/"+name)
		sh(t, "cryptsetup", "close", name)
		sh(t, "mkdir", "-p", "/srv/"+name)
		fmt.Fprintf(&crypttab, "%s %s /root/bench.key luks,noauto\n", name, image)
		fmt.Fprintf(&fstab, "/dev/mapper/%s /srv/%[1]s ext4 noauto 0 0\n", name)
		units = append(units, "srv-"+name+".mount")
	}
	write(t, "/etc/crypttab", crypttab.String())
	write(t, "/etc/fstab", read(t, "/etc/fstab")+"\n"+fstab.String())
	return units
}

// sh runs a tool on the node and returns what it printed.
func sh(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := deadline()
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
