// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
)

// The tests here look at one node over many boots, each at what its phase is about. scripts/test-boot reboots it and says by VOLUKS_PHASE which one that is.
// The database in a container, that of a service and that on a device of crypttab are set up by the examples of docs/boot.md.

// hostPG is the unit of a PostgreSQL of the host, with its data at the path. What it waits for is the business of whoever puts an encrypted volume there.
func hostPG(path, name, port string) string {
	return strings.NewReplacer("<path>", path, "<name>", name, "<port>", port).Replace(`[Service]
RootDirectory=/opt/pg
BindPaths=<path>:/data /run/<name>:/run/postgresql
RuntimeDirectory=<name>
MountAPIVFS=yes
Environment=PGDATA=/data LANG=C.UTF-8 PATH=/usr/lib/postgresql/17/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin
ExecStart=/usr/local/bin/run-postgres -c port=<port>
KillSignal=SIGINT
[Install]
WantedBy=multi-user.target
`)
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

// databases are the ways to ask the three of them.
var databases = map[string]func(query string) (string, error){
	"container": func(query string) (string, error) {
		return try("docker", "exec", "db", "psql", "-U", "postgres", "-tAc", query)
	},
	"host":    func(query string) (string, error) { return hostSQL("5432", query) },
	"adopted": func(query string) (string, error) { return hostSQL("5433", query) },
}

func hostSQL(port, query string) (string, error) {
	return try("chroot", "/opt/pg", "/usr/lib/postgresql/17/bin/psql", "-h", "127.0.0.1", "-p", port, "-U", "postgres", "-tAc", query)
}

// addRow waits until a database takes a row, and returns how many it has.
func addRow(t *testing.T, name string) string {
	t.Helper()
	var count string
	within(t, 8*time.Minute, func() (err error) {
		count, err = databases[name]("with row as (insert into boots default values returning id) select count(*) + 1 from boots")
		return err
	})
	return count
}

// up waits until all of the units are active, and asks systemd for them at once: each command takes its time here.
func up(t *testing.T, units ...string) {
	t.Helper()
	within(t, 8*time.Minute, func() error {
		out, err := try(append([]string{"systemctl", "is-active"}, units...)...)
		if states := strings.Fields(out); len(states) != len(units) || slices.ContainsFunc(states, func(s string) bool { return s != "active" }) {
			return fmt.Errorf("%s are %s (%v)", units, states, err)
		}
		return nil
	})
}

// state is a property of a unit.
func state(t *testing.T, unit, property string) string {
	t.Helper()
	return output(t, "systemctl", "show", "-P", property, unit)
}

// journalOf is what the journal has of this boot by the given matches.
func journalOf(t *testing.T, matches ...string) string {
	t.Helper()
	return output(t, append([]string{"journalctl", "-b", "--no-pager", "-q"}, matches...)...)
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// keyService tells the key services how to be, now and at the next boot: on, or off. There are two: the program of scripts/test-boot.d/setup and, in
// the boots where it is late or does not come, a tang server.
func keyService(t *testing.T, how string) {
	t.Helper()
	writeFile(t, "/etc/voluks/kek-mode", how+"\n")
	// Without a reload of systemd: that forgets by how much a unit's time to start was extended, and ends a unit that waits for its key.
	output(t, "systemctl", map[string]string{"on": "enable", "off": "disable"}[how], "--no-reload", "--quiet", "tangd.socket")
	output(t, "systemctl", map[string]string{"on": "start", "off": "stop"}[how], "tangd.socket")
}

// execTable is the provider of the program.
const execTable = "provider = \"exec\"\n[NAME.exec]\ncommand = [\"/usr/local/lib/voluks/kek\"]\nid = \"test\"\n"
const fileTable = "[[previous]]\nprovider = \"file\"\n[previous.file]\npath = \"/etc/voluks/master.key\"\n"

// TestRebootSetUp makes the node that is rebooted.
func TestRebootSetUp(t *testing.T) {
	phase(t, "boot-setup")
	create := func(name string) { output(t, "voluks", "volume", "create", "--size", "32M", name) }
	enable := func(name string, args ...string) {
		output(t, append([]string{"voluks", "boot", "enable", name, "--mount", "/srv/" + name}, args...)...)
	}

	example(t, "Docker and Podman")
	writeFile(t, "/etc/systemd/system/postgresql.service", hostPG("/srv/pg", "hostpg", "5432"))
	example(t, "A service of the host")
	output(t, "systemctl", "enable", "postgresql.service")

	create("two")
	create("badrec")
	create("badhdr")
	enable("two", "--now")
	output(t, "voluks", "boot", "enable", "two", "--mount", "/srv/two-b")
	enable("badrec", "--nofail")
	enable("badhdr", "--nofail")

	// From here on the key service wraps; what there was is opened with the file.
	writeFile(t, "/etc/voluks/config.toml", "recovery = \"none\"\n[kek]\n"+strings.Replace(execTable, "NAME", "kek", 1)+fileTable)
	output(t, "systemctl", "reload", "voluks.service")
	create("late")
	create("latehost")
	create("nofail")
	enable("latehost", "--timeout", "10m")
	enable("nofail", "--nofail", "--timeout", "5s")
	for _, name := range []string{"latehost", "nofail"} { // a key service is on the network
		if got := state(t, "voluks-volume@"+name+".service", "After"); !strings.Contains(got, "network-online.target") {
			t.Errorf("%s is ordered after %s", name, got) // F43
		}
	}
	// Without word from voluks that it still waits, systemd gives up after that time.
	writeFile(t, "/etc/systemd/system/voluks-volume@latehost.service.d/limit.conf", "[Service]\nTimeoutStartSec=40\n")
	output(t, "docker", "run", "-d", "--init", "--name", "late", "--restart", "always", "--network", "none", "-v", "late:/d", image,
		"sh", "-c", "while :; do date >> /d/log; sync; sleep 1; done")

	// A disk that cryptsetup formatted.
	writeFile(t, "/root/data.passphrase", "correct horse")
	if err := os.Chmod("/root/data.passphrase", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/dev/ubdb", "/dev/sdb1"); err != nil {
		t.Fatal(err)
	}
	passphrase := []string{"--key-file", "/root/data.passphrase", "/dev/sdb1"}
	output(t, append([]string{"cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}, passphrase...)...)
	output(t, append([]string{"cryptsetup", "open"}, append(passphrase, "fresh")...)...)
	output(t, "mkfs.ext4", "-q", "/dev/mapper/fresh")
	output(t, "cryptsetup", "close", "fresh")
	example(t, "A device of yours, through crypttab")
	if table, err := os.ReadFile("/etc/crypttab"); err != nil || !strings.Contains(string(table), " /run/voluks/keys.sock luks,headless,_netdev") {
		t.Errorf("crypttab: %q, %v", table, err)
	}
	output(t, "rmdir", "/srv/data/lost+found") // initdb does not like it; this is no volume of voluks
	writeFile(t, "/etc/systemd/system/adopted-pg.service", "[Unit]\nRequiresMountsFor=/srv/data\n"+hostPG("/srv/data", "adoptedpg", "5433"))
	output(t, "systemctl", "daemon-reload")
	output(t, "systemctl", "enable", "--now", "adopted-pg.service")

	for name, sql := range databases {
		within(t, 8*time.Minute, func() error {
			_, err := sql("create table if not exists boots (id serial)")
			return err
		})
		addRow(t, name)
	}
	if source := output(t, "docker", "exec", "db", "sh", "-c", "grep ' /var/lib/postgresql/data ' /proc/mounts"); !strings.HasPrefix(source, "/dev/mapper/voluks-") {
		t.Errorf("the database of the example is on %s", source)
	}

	// One record and one header are ruined.
	writeFile(t, "/var/lib/voluks/volumes/badrec/record.json", "{ ruined")
	output(t, "dd", "if=/dev/urandom", "of=/var/lib/voluks/volumes/badhdr/image", "bs=1M", "count=4", "conv=notrunc", "status=none")
	output(t, "sync")

	// The first shutdown finds two that do not end when they are told to: a process of the host in a volume, and a container.
	output(t, "systemd-run", "--quiet", "--unit", "stubborn", "-p", "TimeoutStopSec=15", "sh", "-c", "trap '' TERM; exec 3>/srv/two/open; while :; do sleep 1; done")
	create("deaf")
	output(t, "docker", "run", "-d", "--name", "deaf", "--network", "none", "-v", "deaf:/d", image, "sh", "-c", "trap '' TERM; exec 3>/d/open; while :; do sleep 1; done")
}

// others is what must be true after each boot, whatever the key service does: whatever does not need it is there.
func others(t *testing.T) {
	t.Helper()
	t.Logf("rows on the host: %s", addRow(t, "host"))
	up(t, "srv-pg.mount", "srv-two.mount", "srv-two\\x2db.mount", "voluks.socket", "voluks.service", "voluks-shutdown.service", "voluks-keys.socket")
	mounts, err := sys.MountInfoOf("self")
	if err != nil {
		t.Fatal(err)
	}
	source := map[string]string{}
	for _, m := range mounts {
		source[m.Mountpoint] = m.Source + "[" + m.Root + "]"
	}
	for _, where := range []string{"/srv/pg", "/srv/two", "/srv/two-b"} {
		if got := source[where]; !strings.HasPrefix(got, "/dev/mapper/voluks-") || !strings.HasSuffix(got, "[/data]") {
			t.Errorf("%s is %s", where, got)
		}
	}
	if out, _ := try("systemctl", "is-active", "emergency.target", "srv-badrec.mount", "srv-badhdr.mount"); slices.Contains(strings.Fields(out), "active") {
		t.Errorf("the emergency shell and the mounts of the two ruined volumes are %s", strings.Fields(out))
	}
	noPlaintext(t, "badrec")
	noPlaintext(t, "badhdr")
}

func noPlaintext(t *testing.T, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join("/srv", name, "leak"), []byte("plain"), 0o600); err == nil {
		t.Errorf("a file could be written at /srv/%s", name)
	}
}

// all is what must be true when the boot is over and the key service is there; further units are up then too.
func all(t *testing.T, units ...string) {
	t.Helper()
	up(t, append(units, "multi-user.target", "srv-latehost.mount")...)
	for _, name := range []string{"container", "adopted"} {
		t.Logf("rows: %s %s", name, addRow(t, name))
	}
	within(t, 8*time.Minute, func() error { return running("late") })
	// The socket knew which device was asked for, and by whom.
	if log := journalOf(t, "VOLUKS_VOLUME=data"); !strings.Contains(log, "the key of the agent slot was given") {
		t.Errorf("not logged that a key was given:\n%s", log)
	}
}

// closedBefore looks at the end of the boot before: everything was closed, in order, and after the containers.
func closedBefore(t *testing.T) string {
	t.Helper()
	log := output(t, "journalctl", "-b", "-1", "-u", "voluks-shutdown.service", "-u", "docker.service", "-u", "voluks-volume@*", "--no-pager", "-o", "short-monotonic")
	docker, closing := strings.LastIndex(log, "Stopped docker.service"), strings.LastIndex(log, "Stopping voluks-shutdown.service")
	if docker < 0 || closing < docker {
		t.Errorf("volumes were not closed after Docker had stopped:\n%s", log)
	}
	if !strings.Contains(log, "voluks-shutdown.service: Deactivated successfully") {
		t.Errorf("not all volumes could be closed:\n%s", log)
	}
	return log
}

// After the shutdown with a process and a container that did not end when they were told to: it waited for them, and all is there. F17 F43
func TestRebootBusy(t *testing.T) {
	phase(t, "boot-busy")
	closedBefore(t)
	if log := output(t, "journalctl", "-b", "-1", "-u", "srv-two.mount", "--no-pager"); !strings.Contains(log, "target is busy") {
		t.Errorf("the mount was not busy, so this showed nothing:\n%s", log)
	}
	output(t, "docker", "rm", "-f", "deaf")
	others(t)
	all(t)
}

// The undisturbed node comes back by itself, again and again. F19 F23 F43 F49
func TestRebootUp(t *testing.T) {
	phase(t, "boot-up")
	if log := closedBefore(t); strings.Contains(log, "stays open") {
		t.Errorf("a volume of the host could not be closed at once:\n%s", log)
	}
	others(t)
	all(t, "srv-nofail.mount")
	if got := state(t, "voluks-gate.service", "Result"); got != "success" {
		t.Errorf("the gate: %s", got)
	}
	if log := output(t, "voluks", "volume", "inspect", "badrec"); !strings.Contains(log, "damaged") {
		t.Errorf("the ruined record: %s", log)
	}
}

// The volumes that wait for a key move to a tang server, which is not there at the next boot. The device of crypttab stays with the program.
func TestRebootMove(t *testing.T) {
	phase(t, "boot-move")
	table := tangTable(t, "timeout = \"1m\"\n")
	writeFile(t, "/etc/voluks/config.toml", "recovery = \"none\"\n"+table+"[[previous]]\n"+strings.Replace(execTable, "NAME", "previous", 1)+fileTable)
	output(t, "systemctl", "reload", "voluks.service")
	if moved := output(t, "voluks", "kek", "rotate", "late", "latehost", "nofail"); strings.Count(moved, " moved") != 3 {
		t.Errorf("kek rotate: %s", moved)
	}
	output(t, "voluks", "boot", "enable", "nofail", "--mount", "/srv/nofail", "--nofail", "--timeout", "30s") // clevis takes 5 s of an idle guest
	keyService(t, "off")
}

// The key server is late: Docker waits behind the gate, the boot for the volume without nofail, and everything else is there; when it comes, so do all
// the others. systemd's own limit for the unit is over by then. F23 F43
func TestRebootLate(t *testing.T) {
	phase(t, "boot-late")
	closedBefore(t)
	others(t)
	within(t, 8*time.Minute, func() error {
		if log := journalOf(t, "-u", "voluks-gate.service"); !strings.Contains(log, "waiting for keys") {
			return fmt.Errorf("the gate does not wait:\n%s", log)
		}
		return nil
	})
	// This one has no patience.
	within(t, 8*time.Minute, func() error {
		if got := state(t, "voluks-volume@nofail.service", "ActiveState"); got != "failed" {
			return fmt.Errorf("the volume that waits 30 s is %s", got)
		}
		return nil
	})
	within(t, 8*time.Minute, func() error {
		log := journalOf(t, "-u", "systemd-cryptsetup@data.service", "-u", "voluks-keys@*")
		if !strings.Contains(log, "waiting for the key") {
			return fmt.Errorf("systemd-cryptsetup does not wait for its key:\n%s", log)
		}
		return nil
	})
	within(t, 4*time.Minute, func() error {
		var since, up float64
		if _, err := fmt.Sscan(state(t, "voluks-volume@latehost.service", "ExecMainStartTimestampMonotonic"), &since); err != nil {
			return err
		}
		uptime, err := os.ReadFile("/proc/uptime")
		if err != nil {
			return err
		}
		if _, err := fmt.Sscan(string(uptime), &up); err != nil {
			return err
		}
		if since == 0 || up-since/1e6 < 47 || up < 60 {
			return fmt.Errorf("systemd's limit of 40 s for the volume is not over, or the boot is no minute ago")
		}
		return nil
	})
	for unit, want := range map[string]string{"docker.service": "inactive", "remote-fs.target": "inactive", "srv-latehost.mount": "inactive", "voluks-volume@latehost.service": "activating"} {
		if got := state(t, unit, "ActiveState"); got != want {
			t.Errorf("without the key %s is %s, not %s", unit, got, want)
		}
	}
	noPlaintext(t, "latehost")

	keyService(t, "on")
	all(t)
	if err := active("remote-fs.target"); err != nil {
		t.Error(err)
	}
	output(t, "systemctl", "start", "srv-nofail.mount")
	output(t, "touch", "/srv/nofail/there")

	// The next boot is without the key server. Nobody needs to wait long for that.
	keyService(t, "off")
	output(t, "voluks", "boot", "enable", "latehost", "--mount", "/srv/latehost", "--timeout", "10s")
	for unit, command := range map[string]string{"voluks-gate.service": "/usr/bin/voluks boot wait", "voluks-keys@.service": "-/usr/bin/voluks boot key"} {
		writeFile(t, "/etc/systemd/system/"+unit+".d/short.conf", "[Service]\nExecStart=\nExecStart="+command+" --timeout 10s\n")
	}
}

// The key server never comes: what does not need it is there, what needs it has failed and says why, and nothing is plaintext. F28 F43
func TestRebootNever(t *testing.T) {
	phase(t, "boot-never")
	closedBefore(t)
	within(t, 8*time.Minute, func() error { return active("multi-user.target") })
	others(t)
	within(t, 8*time.Minute, func() error { return running("db") })
	addRow(t, "container")
	for _, unit := range []string{"voluks-volume@latehost.service", "voluks-volume@nofail.service", "systemd-cryptsetup@data.service"} {
		within(t, 8*time.Minute, func() error {
			if got := state(t, unit, "ActiveState"); got != "failed" {
				return fmt.Errorf("without a key %s is %s", unit, got)
			}
			return nil
		})
	}
	// The volume without nofail is what the target misses.
	if got := state(t, "remote-fs.target", "ActiveState"); got != "inactive" {
		t.Errorf("remote-fs.target is %s", got)
	}
	const away = "the tang server http://127.0.0.1 does not answer"
	for match, why := range map[string]string{"VOLUKS_VOLUME=latehost": away, "VOLUKS_VOLUME=data": "the key service is gone"} {
		if log := journalOf(t, match); !strings.Contains(log, why) {
			t.Errorf("the reason is not in the journal under %s:\n%s", match, log)
		}
	}
	if log := journalOf(t, "-u", "voluks-gate.service"); !strings.Contains(log, away) {
		t.Errorf("the gate does not say why it waited:\n%s", log)
	}
	within(t, 4*time.Minute, func() error {
		if info := inspect(t, "latehost"); info.State != volume.StateLocked || !strings.Contains(info.Reason, away) || info.NextTry == nil {
			return fmt.Errorf("its status is %s: %q, next try %v", info.State, info.Reason, info.NextTry)
		}
		return nil
	})
	if err := running("late"); err == nil {
		t.Error("a container runs on a volume without a key")
	}
	if err := active("adopted-pg.service"); err == nil {
		t.Error("the database runs without its device")
	}
	noPlaintext(t, "latehost")
	noPlaintext(t, "nofail")
}
