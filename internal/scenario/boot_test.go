// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The tests here look at one node over many boots. scripts/test-boot reboots it and says by VOLUKS_PHASE which boot it is.

// hostPG is the unit of a PostgreSQL of the host, which waits for its volume by one line.
const hostPG = `[Unit]
RequiresMountsFor=/srv/hpg
[Service]
RootDirectory=/opt/pg
BindPaths=/srv/hpg:/data /run/hostpg:/run/postgresql
RuntimeDirectory=hostpg
MountAPIVFS=yes
Environment=PGDATA=/data LANG=C.UTF-8 PATH=/usr/lib/postgresql/17/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
ExecStart=/usr/local/bin/run-postgres
KillSignal=SIGINT
[Install]
WantedBy=multi-user.target
`

// adopt has this node open a disk that cryptsetup formatted with a passphrase, by a line of crypttab, and puts a PostgreSQL of the host on it.
func adopt(t *testing.T) {
	t.Helper()
	const passphrase = "/root/passphrase"
	if err := os.WriteFile(passphrase, []byte("correct horse"), 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, "cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf-memory", "65536", "--pbkdf-force-iterations", "4", "--key-file", passphrase, "/dev/ubdb")
	output(t, "voluks", "keyslot", "adopt", "--name", "adopted", "--key-file", passphrase, "/dev/ubdb")
	line := output(t, "voluks", "boot", "crypttab", "adopted")
	if !strings.Contains(line, " /run/voluks/keys.sock luks,headless,_netdev") {
		t.Errorf("the line for crypttab is %q", line)
	}
	if err := os.WriteFile("/etc/crypttab", []byte(line+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	output(t, "systemctl", "daemon-reload")
	output(t, "systemctl", "start", "systemd-cryptsetup@adopted.service")
	output(t, "mkfs.ext4", "-q", "/dev/mapper/adopted")
	fstab, err := os.OpenFile("/etc/fstab", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fstab.WriteString("/dev/mapper/adopted /srv/apg ext4 _netdev 0 2\n"); err != nil {
		t.Fatal(err)
	}
	if err := fstab.Close(); err != nil {
		t.Fatal(err)
	}
	unit := strings.NewReplacer("/srv/hpg", "/srv/apg", "hostpg", "adoptedpg", "/run-postgres", "/run-postgres -c port=5433").Replace(hostPG)
	if err := os.WriteFile("/etc/systemd/system/adopted-pg.service", []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	output(t, "systemctl", "daemon-reload")
	// The file system makes lost+found at its root, which initdb does not like; this one is no volume of voluks.
	output(t, "systemctl", "start", "srv-apg.mount")
	output(t, "rmdir", "/srv/apg/lost+found")
	output(t, "systemctl", "enable", "--now", "adopted-pg.service")
}

func adoptedSQL(query string) (string, error) {
	return try("chroot", "/opt/pg", "/usr/lib/postgresql/17/bin/psql", "-h", "127.0.0.1", "-p", "5433", "-U", "postgres", "-tAc", query)
}

// adoptedUp tells that systemd-cryptsetup opened the adopted disk with the key of voluks, and that its database is whole.
func adoptedUp(t *testing.T) {
	t.Helper()
	within(t, 2*time.Minute, func() error {
		_, err := adoptedSQL("insert into boots default values")
		return err
	})
	log := output(t, "journalctl", "-b", "-u", "voluks-keys@*", "--no-pager")
	if !strings.Contains(log, "the key of the agent slot was given") || !strings.Contains(log, "adopted") {
		t.Errorf("not logged that a key was given:\n%s", log)
	}
}

// within is eventually with another patience.
func within(t *testing.T, limit time.Duration, check func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", limit, err)
		}
		time.Sleep(time.Second)
	}
}

func containerSQL(query string) (string, error) {
	return try("docker", "exec", "bpg", "psql", "-U", "postgres", "-tAc", query)
}

func hostSQL(query string) (string, error) {
	return try("chroot", "/opt/pg", "/usr/lib/postgresql/17/bin/psql", "-h", "127.0.0.1", "-U", "postgres", "-tAc", query)
}

// rows adds a row in both databases and returns how many there are.
func rows(t *testing.T) (inContainer, onHost string) {
	t.Helper()
	for name, sql := range map[string]func(string) (string, error){"container": containerSQL, "host": hostSQL} {
		within(t, 2*time.Minute, func() error {
			_, err := sql("insert into boots default values")
			return err
		})
		count, err := sql("select count(*) from boots")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if name == "container" {
			inContainer = count
		} else {
			onHost = count
		}
	}
	return inContainer, onHost
}

// state is a property of a unit.
func state(t *testing.T, unit, property string) string {
	t.Helper()
	return output(t, "systemctl", "show", "-P", property, unit)
}

// TestBootSetUp makes the node that is rebooted.
func TestBootSetUp(t *testing.T) {
	phase(t, "boot-setup")
	create := func(name, size string) { output(t, "voluks", "volume", "create", "--size", size, name) }
	enable := func(name string, args ...string) {
		output(t, append([]string{"voluks", "boot", "enable", name, "--mount", "/srv/" + strings.TrimPrefix(name, "b")}, args...)...)
	}
	create("bpg", "160M")
	create("bhpg", "160M")
	create("btwo", "32M")
	create("bbadrec", "32M")
	create("bbadhdr", "32M")
	enable("bhpg")
	enable("btwo")
	output(t, "voluks", "boot", "enable", "btwo", "--mount", "/srv/two-b")
	enable("bbadrec")
	enable("bbadhdr")

	// From here on the key service wraps; what there was is opened with the file.
	conf := "recovery = \"none\"\n[kek]\nprovider = \"exec\"\n[kek.exec]\ncommand = [\"/usr/local/lib/voluks/kek\"]\nid = \"test\"\n" +
		"[[previous]]\nprovider = \"file\"\n[previous.file]\npath = \"/etc/voluks/master.key\"\n"
	if err := os.WriteFile("/etc/voluks/config.toml", []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	output(t, "systemctl", "reload", "voluks.service")
	create("blate", "32M")
	create("blatehost", "32M")
	create("bnofail", "32M")
	enable("blatehost", "--timeout", "150s")
	enable("bnofail", "--nofail", "--timeout", "5s")
	for _, name := range []string{"blatehost", "bnofail"} { // a key service is on the network
		if got := state(t, "voluks-volume@"+name+".service", "After"); !strings.Contains(got, "network-online.target") {
			t.Errorf("%s is ordered after %s", name, got) // F43
		}
	}

	output(t, "docker", "run", "-d", "--name", "bpg", "--restart", "always", "--network", "none", "-v", "bpg:/data", "voluks-demo/stack")
	output(t, "docker", "run", "-d", "--name", "blate", "--restart", "always", "--network", "none", "-v", "blate:/d", image,
		"sh", "-c", "while :; do date >> /d/log; sync; sleep 1; done")
	if err := os.WriteFile("/etc/systemd/system/host-pg.service", []byte(hostPG), 0o644); err != nil {
		t.Fatal(err)
	}
	output(t, "systemctl", "daemon-reload")
	output(t, "systemctl", "enable", "--now", "host-pg.service")
	adopt(t)
	for _, sql := range []func(string) (string, error){containerSQL, hostSQL, adoptedSQL} {
		within(t, 4*time.Minute, func() error {
			_, err := sql("create table if not exists boots (id serial)")
			return err
		})
	}

	// One record and one header are ruined. F51 and the last line of F43: the boot goes on for the others.
	if err := os.WriteFile("/var/lib/voluks/volumes/bbadrec/record.json", []byte("{ ruined"), 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, "dd", "if=/dev/urandom", "of=/var/lib/voluks/volumes/bbadhdr/image", "bs=1M", "count=4", "conv=notrunc")
	output(t, "sync")
}

// booted is what must be true after each boot, whatever the key service does.
func booted(t *testing.T) {
	t.Helper()
	within(t, 3*time.Minute, func() error { return active("multi-user.target") })
	if err := active("emergency.target"); err == nil {
		t.Error("the boot ended in an emergency shell")
	}
	within(t, 2*time.Minute, func() error { return running("bpg") })
	inContainer, onHost := rows(t)
	t.Logf("rows: %s in the container, %s on the host", inContainer, onHost)
	if inContainer != onHost {
		t.Errorf("%s rows in the container, %s on the host: a boot lost one", inContainer, onHost)
	}
	for _, where := range []string{"/srv/hpg", "/srv/two", "/srv/two-b"} {
		if source := output(t, "findmnt", "-no", "SOURCE", where); !strings.HasPrefix(source, "/dev/mapper/voluks-") || !strings.HasSuffix(source, "[/data]") {
			t.Errorf("%s is %s", where, source)
		}
	}
	for _, name := range []string{"badrec", "badhdr"} {
		if got := state(t, "srv-"+name+".mount", "ActiveState"); got == "active" {
			t.Errorf("the ruined volume %s is mounted", name)
		}
		if err := os.WriteFile("/srv/"+name+"/leak", []byte("plain"), 0o600); err == nil {
			t.Errorf("a file could be written at /srv/%s", name)
		}
	}
	// All of voluks was ready before Docker.
	for _, unit := range []string{"voluks.socket", "voluks.service", "voluks-shutdown.service"} {
		if err := active(unit); err != nil {
			t.Error(err)
		}
	}
}

// closedBefore looks at the end of the boot before: everything was closed, in order, and after the containers.
func closedBefore(t *testing.T) {
	t.Helper()
	log := output(t, "journalctl", "-b", "-1", "-u", "voluks-shutdown.service", "-u", "docker.service", "-u", "voluks-volume@*", "--no-pager", "-o", "short-monotonic")
	docker, closing := strings.LastIndex(log, "Stopped docker.service"), strings.LastIndex(log, "Stopping voluks-shutdown.service")
	if docker < 0 || closing < docker {
		t.Errorf("volumes were not closed after Docker had stopped:\n%s", log)
	}
	if !strings.Contains(log, "voluks-shutdown.service: Deactivated successfully") {
		t.Errorf("not all volumes could be closed:\n%s", log)
	}
	if strings.Contains(log, "stays open") {
		t.Errorf("a volume of the host could not be closed at once:\n%s", log)
	}
}

// The undisturbed node comes back by itself, again and again. F19 F23 F43 F49
func TestBootUp(t *testing.T) {
	phase(t, "boot-up")
	closedBefore(t)
	booted(t)
	if got := state(t, "voluks-gate.service", "Result"); got != "success" {
		t.Errorf("the gate: %s", got)
	}
	within(t, time.Minute, func() error { return running("blate") })
	for _, unit := range []string{"srv-latehost.mount", "srv-nofail.mount"} {
		within(t, time.Minute, func() error { return active(unit) })
	}
	adoptedUp(t)
	if log := output(t, "voluks", "volume", "inspect", "bbadrec"); !strings.Contains(log, "damaged") {
		t.Errorf("the ruined record: %s", log)
	}
}

// The key service comes a minute after the boot: Docker waits behind the gate, and every container comes up. F23 F43
func TestBootLate(t *testing.T) {
	phase(t, "boot-late")
	closedBefore(t)
	booted(t)
	gate := output(t, "journalctl", "-b", "-u", "voluks-gate.service", "--no-pager")
	if !strings.Contains(gate, "waiting for keys") || state(t, "voluks-gate.service", "Result") != "success" {
		t.Errorf("the gate did not wait, or not long enough:\n%s", gate)
	}
	within(t, 2*time.Minute, func() error { return running("blate") })
	within(t, 2*time.Minute, func() error { return active("srv-latehost.mount") })
	adoptedUp(t)
	// This one had less patience. It can be mounted now.
	if err := active("srv-nofail.mount"); err == nil {
		t.Error("the volume that waits 5 s was mounted at boot: was the key service late at all?")
	}
	output(t, "systemctl", "start", "srv-nofail.mount")
	output(t, "touch", "/srv/nofail/there")
}

// The key service never comes: what does not need it is there, what needs it has failed and says why, and nothing is plaintext. F28 F43
func TestBootNever(t *testing.T) {
	phase(t, "boot-never")
	closedBefore(t)
	booted(t)
	if got := state(t, "voluks-gate.service", "Result"); got == "success" {
		t.Error("the gate was content")
	}
	within(t, 4*time.Minute, func() error {
		if got := state(t, "voluks-volume@blatehost.service", "ActiveState"); got != "failed" {
			return fmt.Errorf("the volume without a key is %s", got)
		}
		return nil
	})
	if log := output(t, "journalctl", "-b", "-u", "voluks-volume@blatehost.service", "--no-pager"); !strings.Contains(log, "the key service is gone") {
		t.Errorf("the reason is not in the journal:\n%s", log)
	}
	if err := running("blate"); err == nil {
		t.Error("a container runs on a volume without a key")
	}
	within(t, 4*time.Minute, func() error {
		if got := state(t, "systemd-cryptsetup@adopted.service", "ActiveState"); got != "failed" {
			return fmt.Errorf("the adopted disk without a key is %s", got)
		}
		return nil
	})
	for _, name := range []string{"latehost", "nofail"} {
		if err := os.WriteFile(filepath.Join("/srv", name, "leak"), []byte("plain"), 0o600); err == nil {
			t.Errorf("a file could be written at /srv/%s", name)
		}
	}
}
