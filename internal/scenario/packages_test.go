// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestPackage is the life of a package on one node, in this order: installed, set up, upgraded and killed under load, removed, purged. scripts/test-packages
// brings two versions.
func TestPackage(t *testing.T) {
	phase(t, "packages")
	steps := []struct {
		name string
		run  func(*testing.T)
	}{
		{"install", installed}, {"setUp", setUp}, {"load", load}, {"remove", removed}, {"installAgain", installedAgain}, {"purge", purged},
	}
	for _, step := range steps {
		if !t.Run(step.name, step.run) {
			t.Fatalf("the others would test nothing")
		}
	}
}

func dpkg(t *testing.T, args ...string) string {
	t.Helper()
	return output(t, append([]string{"dpkg"}, args...)...)
}

// A new package on a node that is not set up: units enabled, nothing started, nothing broken.
func installed(t *testing.T) {
	out := dpkg(t, "-i", "/mnt/share/old.deb")
	if !strings.Contains(out, "voluks init") {
		t.Errorf("what to do next is not said:\n%s", out)
	}
	for _, unit := range []string{"voluks.socket", "voluks.service", "voluks-gate.service", "voluks-shutdown.service"} {
		if got := output(t, "systemctl", "is-enabled", unit); got != "enabled" {
			t.Errorf("%s is %s", unit, got)
		}
	}
	if err := active("voluks-shutdown.service"); err != nil {
		t.Error(err)
	}
	if out, _ := try("systemctl", "is-active", "voluks.socket"); out != "inactive" {
		t.Errorf("on a node that is not set up the socket is %s", out)
	}
	if out := output(t, "systemctl", "--failed", "--plain", "--no-legend"); out != "" {
		t.Errorf("failed: %s", out)
	}
	if out := output(t, "voluks", "version"); !strings.HasPrefix(out, "voluks v0.0.1") {
		t.Errorf("installed: %s", out)
	}
	if _, err := os.Stat("/usr/share/man/man1/voluks.1.gz"); err != nil {
		t.Error(err)
	}
}

func setUp(t *testing.T) {
	output(t, "voluks", "init", "--recovery-identity-file", "/root/recovery-identity.txt")
	output(t, "systemctl", "start", "voluks.socket", "voluks.service")
	output(t, "voluks", "volume", "create", "--size", "200M", "pgbench")
	output(t, "docker", "run", "-d", "--name", "pgbench", "--restart", "always", "--network", "none", "-v", "pgbench:/data", "voluks-demo/stack")
	within(t, 4*time.Minute, func() error {
		_, err := try("docker", "exec", "pgbench", "pgbench", "-U", "postgres", "-i", "-q", "-s", "1", "postgres")
		return err
	})
	output(t, "voluks", "volume", "create", "--size", "32M", "host")
	output(t, "voluks", "boot", "enable", "host", "--mount", "/srv/host", "--now")
}

var (
	transactions = regexp.MustCompile(`number of transactions actually processed: (\d+)`)
	failures     = regexp.MustCompile(`number of failed transactions: (\d+)`)
)

// While pgbench runs the agent is killed, restarted and upgraded from package to package: no transaction fails, no mount moves. F20
func load(t *testing.T) {
	before := mountsOf(t)
	holdersBefore := holders(t, "pgbench")
	stop := underLoad(t)
	began := time.Now()
	old := mainPID(t, "voluks.service")
	output(t, "systemctl", "kill", "-s", "KILL", "--kill-whom", "all", "voluks.service")
	output(t, "docker", "volume", "inspect", "pgbench")
	output(t, "systemctl", "restart", "voluks.service")
	dpkg(t, "-i", "/mnt/share/new.deb")
	if out := output(t, "voluks", "version"); !strings.HasPrefix(out, "voluks v0.0.2") {
		t.Errorf("after the upgrade: %s", out)
	}
	exe, err := os.Readlink("/proc/" + mainPID(t, "voluks.service") + "/exe")
	if err != nil || exe != "/usr/bin/voluks" {
		t.Errorf("the agent still runs the old program: %s, %v", exe, err)
	}
	if pid := mainPID(t, "voluks.service"); pid == old || pid == "0" {
		t.Errorf("main pid %s, was %s", pid, old)
	}
	t.Logf("all of it took %v", time.Since(began).Round(time.Second))
	stop()
	if after := mountsOf(t); after != before {
		t.Errorf("mounts before:\n%s\nafter:\n%s", before, after)
	}
	if after := holders(t, "pgbench"); strings.Join(after, " ") != strings.Join(holdersBefore, " ") {
		t.Errorf("holders before %q, after %q", holdersBefore, after)
	}
	output(t, "docker", "restart", "-t", "20", "pgbench")
	within(t, time.Minute, func() error {
		_, err := try("docker", "exec", "pgbench", "psql", "-U", "postgres", "-tAc", "select 1")
		return err
	})
}

// underLoad runs pgbench, a few seconds at a time, until stop is called, which fails the test unless each of its transactions has succeeded.
func underLoad(t *testing.T) (stop func()) {
	t.Helper()
	const seconds = "5"
	end, done := make(chan struct{}), make(chan error, 1)
	total := 0
	go func() {
		for {
			out, err := try("docker", "exec", "pgbench", "pgbench", "-U", "postgres", "-c", "2", "-T", seconds, "postgres")
			if err != nil {
				done <- err
				return
			}
			processed, failed := transactions.FindStringSubmatch(out), failures.FindStringSubmatch(out)
			if processed == nil || processed[1] == "0" || failed == nil || failed[1] != "0" {
				done <- fmt.Errorf("pgbench: %s", out)
				return
			}
			n, _ := strconv.Atoi(processed[1])
			total += n
			select {
			case <-end:
				done <- nil
				return
			default:
			}
		}
	}()
	return func() {
		t.Helper()
		close(end)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		t.Logf("%d transactions, none failed", total)
	}
}

// mountsOf are the mounts of volumes with their ids, which change when one is mounted anew.
func mountsOf(t *testing.T) string {
	t.Helper()
	all, err := os.ReadFile("/proc/1/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var ours []string
	for line := range strings.Lines(string(all)) {
		if strings.Contains(line, "/dev/mapper/voluks-") {
			ours = append(ours, line)
		}
	}
	if len(ours) < 2 {
		t.Fatalf("mounts of volumes: %q", ours)
	}
	return strings.Join(ours, "")
}

// Removing the package refuses nothing and destroys nothing: what is mounted stays, and the database goes on.
func removed(t *testing.T) {
	before := mountsOf(t)
	out := dpkg(t, "-r", "voluks")
	if !strings.Contains(out, "are kept") || !strings.Contains(out, "are mounted and stay so") {
		t.Errorf("removal says:\n%s", out)
	}
	if after := mountsOf(t); after != before {
		t.Errorf("mounts before:\n%s\nafter:\n%s", before, after)
	}
	output(t, "docker", "exec", "pgbench", "psql", "-U", "postgres", "-tAc", "create table after_removal (id int)")
	output(t, "touch", "/srv/host/after-removal")
	if _, err := os.Stat("/usr/bin/voluks"); err == nil {
		t.Error("the program is still there")
	}
	for _, path := range []string{"/etc/voluks/master.key", "/etc/voluks/config.toml", "/var/lib/voluks/volumes/pgbench/image"} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	for _, unit := range []string{"voluks.socket", "voluks.service"} {
		if err := active(unit); err == nil {
			t.Errorf("%s is still active", unit)
		}
	}
}

// Installed again, it takes up where it left off.
func installedAgain(t *testing.T) {
	before := mountsOf(t)
	dpkg(t, "-i", "/mnt/share/new.deb")
	for _, unit := range []string{"voluks.socket", "voluks.service"} {
		if err := active(unit); err != nil {
			t.Error(err)
		}
	}
	if info := inspect(t, "pgbench"); info.State != "mounted" || len(info.Holders) != 1 {
		t.Errorf("%s, %d holders", info.State, len(info.Holders))
	}
	if after := mountsOf(t); after != before {
		t.Errorf("mounts before:\n%s\nafter:\n%s", before, after)
	}
	remove(t, "pgbench")
	eventually(t, func() error { return closed("pgbench") })
}

// Purging names what it leaves, and leaves it.
func purged(t *testing.T) {
	out := dpkg(t, "-P", "voluks")
	for _, want := range []string{"purge leaves", "2 volumes", "/etc/voluks/master.key", "/etc/voluks/config.toml", "srv-host.mount"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in what purge says:\n%s", want, out)
		}
	}
	if links, err := filepath.Glob("/etc/systemd/system/*/voluks.*"); err != nil || len(links) > 0 {
		t.Errorf("still enabled: %q, %v", links, err)
	}
	images, err := filepath.Glob("/var/lib/voluks/volumes/*/image")
	if err != nil || len(images) != 2 {
		t.Errorf("images after the purge: %q, %v", images, err)
	}
	if err := fileHas("/etc/voluks/master.key", 32); err != nil {
		t.Error(err)
	}
}

func fileHas(path string, size int64) error {
	info, err := os.Stat(path)
	if err == nil && info.Size() != size {
		return fmt.Errorf("%s has %d bytes", path, info.Size())
	}
	return err
}
