// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/config"
)

func TestHealthyNode(t *testing.T) {
	n := healthy().node(t)
	before := snapshot(t, n.System)
	r := Run(n)
	for _, f := range r.Findings {
		if f.Level != OK {
			t.Errorf("%s: %s: %s (%s)", f.Level, f.Check, f.What, f.Mend)
		}
	}
	if r.Worst != OK {
		t.Errorf("worst is %s", r.Worst)
	}
	if after := snapshot(t, n.System); after != before {
		t.Errorf("looking changed the node:\n%s\nbefore:\n%s", after, before)
	}
	checks := map[string]bool{}
	for _, c := range Checks() {
		if checks[c.ID] || c.Why == "" {
			t.Errorf("check %q: twice, or without a reason", c.ID)
		}
		checks[c.ID] = true
	}
	for _, f := range r.Findings {
		delete(checks, f.Check)
	}
	if len(checks) > 0 {
		t.Errorf("checks that say nothing: %v", checks)
	}
}

// Each case breaks the healthy node in one way and must be found by that check, and by no other.
func TestSickNodes(t *testing.T) {
	set := func(path, content string) func(tree) { return func(f tree) { f[path] = content } }
	gone := func(paths ...string) func(tree) {
		return func(f tree) {
			for _, p := range paths {
				delete(f, p)
			}
		}
	}
	all := func(steps ...func(tree)) func(tree) {
		return func(f tree) {
			for _, s := range steps {
				s(f)
			}
		}
	}
	const modules = "lib/modules/6.12.0-1-amd64/"
	// The root of the machine on a partition in clear.
	clearRoot := func(device string) func(tree) {
		return all(set("proc/800/mountinfo", strings.ReplaceAll(hostMounts, "253:0", device)))
	}
	for _, c := range []struct {
		name   string
		change func(tree)
		check  string
		level  Level
		what   string // part of it
		mend   string // part of it
	}{
		{"no device-mapper", all(set("proc/misc", "237 loop-control\n"), set(modules+"modules.dep", "kernel/drivers/md/dm-crypt.ko.xz:\na/algif_skcipher.ko:")),
			"kernel.device-mapper", Error, "no dm-mod", "kernel"},
		{"no dm-crypt", set(modules+"modules.dep", "a/algif_skcipher.ko:"), "kernel.dm-crypt", Error, "no dm-crypt", "kernel"},
		{"no loop", all(set("proc/misc", "236 device-mapper\n"), gone(modules+"modules.builtin")), "kernel.loop", Error, "no loop", "kernel"},
		{"no xts", set("proc/crypto", ""), "kernel.xts", Error, "no xts", "kernel"},
		{"no skcipher", set(modules+"modules.dep", "dm-crypt.ko:"), "kernel.skcipher", Warning, "algif_skcipher", "CONFIG_"},
		{"no keyring", gone("proc/sys/kernel/keys/.keep"), "kernel.keyring", Error, "keyring", "CONFIG_KEYS"},
		{"no AES instructions", all(set("proc/cpuinfo", "flags : fpu sse2\n"), set("proc/crypto", "name : xts(aes)\ndriver : xts(ecb(aes-generic))\n")),
			"cpu.aes", Warning, "no AES", "hypervisor"},
		{"udev stopped", set("proc/300/status", "State:\tT (stopped)\n"), "udev.running", Error, "pid 300", "kill -CONT 300"}, // F18
		{"udev died", gone("proc/300/comm", "proc/300/status"), "udev.running", Error, "no udev", "systemd-udevd"},
		{"no dm rules", gone("usr/lib/udev/rules.d/55-dm.rules"), "udev.rules", Error, "without the rules", "apt install"},   // F18
		{"own ipc namespace", set("proc/800/ns/ipc", "-> ipc:[2]"), "udev.ipc", Error, "this process", "--ipc=host"},         // F18
		{"agent's own ipc namespace", set("proc/700/ns/ipc", "-> ipc:[2]"), "udev.ipc", Error, "the agent", "PrivateIPC=no"}, // F18
		{"old cookie", set("proc/sysvipc/sem", "key\n 223159291 1 600 1 0 0 0 0 0 1795348000\n"), "udev.cookies", Warning, "old: 1", "dmsetup udevcookies"},
		{"no mkfs", gone("usr/sbin/mkfs.ext4"), "mkfs", Error, "mkfs.ext4", "apt install e2fsprogs"},
		{"agent nowhere", all(gone("run/voluks/agent.lock"), set("proc/net/unix", "")), "agent.running,docker.socket", Warning, "nothing starts it", "systemctl enable"},
		{"agent's pid reused", all(set("proc/700/comm", "bash\n"), set("proc/net/unix", "")), "agent.running,docker.socket", Warning, "nothing starts it", ""},
		{"own mount namespace", all(set("proc/700/ns/mnt", "-> mnt:[2]"), set("proc/700/mountinfo", strings.ReplaceAll(hostMounts, "shared:", "master:"))),
			"agent.namespace", Error, "do not reach the host", "ProtectSystem="}, // F20
		{"units not installed", gone("usr/lib/systemd/system/voluks.socket"), "systemd.units", Warning, "voluks.socket is not installed", "voluks systemd install"},     // F23
		{"units not enabled", gone("etc/systemd/system/sockets.target.wants/voluks.socket"), "systemd.units", Warning, "not enabled", "systemctl enable voluks.socket"}, // F23
		{"unit masked", set("etc/systemd/system/voluks.service", "-> /dev/null"), "systemd.units", Warning, "masked", "systemctl unmask voluks.service"},
		{"not set up", gone("etc/voluks/config.toml"), "config", Error, "not set up", "voluks init"},
		{"configuration wrong", set("etc/voluks/config.toml", "[volumes]\ndefault_siez = \"1G\"\n"), "config", Error, "config.toml:2", "sudoedit"},
		{"no recovery", set("etc/voluks/config.toml", "recovery = \"none\"\n"), "config.recovery", Warning, "switched off", "backups"},
		{"no recipient", set("etc/voluks/config.toml", ""), "config.recovery", Error, "no recovery recipient", "voluks recovery init"},
		{"not confirmed", set("etc/voluks/config.toml", "[recovery]\nrecipients = [\""+recipient+"\"]\n"), "config.recovery", Error, "nobody has confirmed", "confirmed = true"},
		{"key beside the data", set("proc/800/mountinfo", strings.ReplaceAll(strings.ReplaceAll(hostMounts, "253:0", "8:1"), "8:17", "8:1")),
			"keys.beside-data", Warning, "in clear on sda", "kek.file.path"},
		{"swap on a partition", set("proc/swaps", "Filename Type\n/dev/sda2 partition 1 0 -2\n"), "memory.swap", Warning, "/dev/sda2 is in clear", "crypttab"},
		{"swap in a file", all(set("proc/swaps", "Filename Type\n/swap\\040file file 1 0 -2\n"), clearRoot("8:1")), "memory.swap", Warning, `/swap\040file is in clear`, "swapoff"},
		{"zram that writes back", set("sys/devices/virtual/block/zram0/backing_dev", "/dev/sda2\n"), "memory.swap", Warning, "zram0", "swapoff"},
		{"hibernation", all(set("proc/swaps", "Filename Type\n/dev/sda2 partition 1 0 -2\n"), set("sys/power/resume", "8:2\n")), "memory.swap", Warning, "hibernation", "swapoff"},
		{"kdump", set("sys/kernel/kexec_crash_loaded", "1\n"), "memory.dump", Note, "kdump", ""},
		{"clock not kept", gone("proc/301/comm"), "clock", Warning, "nothing keeps", "set-ntp"},
		{"little memory", set("proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 500000 kB\n"), "memory.argon2", Warning, "488 MiB", "passphrase slots"}, // F42
		{"memory limit", set("sys/fs/cgroup/user.slice/memory.max", "134217728\n"), "memory.argon2", Warning, "128 MiB", "passphrase slots"},               // F42
		{"unreadable", set("proc/800/mountinfo", "nonsense\n"), "keys.beside-data", Unknown, "could not be found out", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := healthy()
			c.change(files)
			expect(t, Run(files.node(t)), c.check, c.level, c.what, c.mend)
		})
	}
}

// expect demands the finding, and nothing above a note from any check that is not named.
func expect(t *testing.T, r Report, checks string, level Level, what, mend string) {
	t.Helper()
	names := strings.Split(checks, ",")
	found := false
	for _, f := range r.Findings {
		named := false
		for _, name := range names {
			named = named || f.Check == name
		}
		if f.Level.Worse(Note) && !named {
			t.Errorf("also %s: %s: %s", f.Level, f.Check, f.What)
		}
		found = found || f.Check == names[0] && f.Level == level && strings.Contains(f.What, what) && strings.Contains(f.Mend, mend)
	}
	if !found {
		t.Errorf("no %s of %s with %q and %q in %+v", level, names[0], what, mend, r.Above(Note))
	}
}

func TestPermissions(t *testing.T) {
	for _, c := range []struct {
		path string
		mode fs.FileMode
		mend string // "": fine
	}{
		{"etc/voluks/master.key", 0o640, "chmod go-rwx "},
		{"etc/voluks/master.key", 0o400, ""},
		{"etc/voluks/config.toml", 0o644, ""},
		{"etc/voluks/config.toml", 0o664, "chmod go-w "},
		{"etc/voluks", 0o777, "chmod go-w "},
		{"var/lib/voluks/volumes", 0o711, "chmod go-rwx "},
		{"var/lib/voluks/volumes/db/image", 0o644, "chmod go-rwx "},
		{"usr/bin/voluks", 0o755, ""},
		{"usr/bin/voluks", 0o775, "chmod go-w "},
		{"usr/lib/systemd/system/voluks.service", 0o666, "chmod go-w "},
		{"run/voluks", 0o777 | fs.ModeSticky, ""}, // sticky: others cannot replace what is not theirs
		{"etc/voluks/vault-token", 0o640, "chmod go-rwx "},
		{"etc/voluks/vault-ca.pem", 0o664, "chmod go-w "},
		{"etc/voluks/vault-ca.pem", 0o644, ""},
		{"var/lib/voluks/backups", 0o755, "chmod go-rwx "},
		{"etc/systemd/system/srv-pg.mount", 0o666, "chmod go-w "},
	} {
		files := healthy()
		files["etc/voluks/vault-token"], files["etc/voluks/vault-ca.pem"] = "", ""
		files["var/lib/voluks/backups/.keep"], files["etc/systemd/system/srv-pg.mount"] = "", ""
		n := files.node(t)
		vault := fmt.Sprintf("[[previous]]\nprovider = 'vault'\n[previous.vault]\naddress = 'https://vault'\nkey = 'k'\ntoken_file = '%s'\nca_file = '%s'\n",
			n.at("etc/voluks/vault-token"), n.at("etc/voluks/vault-ca.pem"))
		if err := os.WriteFile(n.ConfigFile, []byte(vault+files["etc/voluks/config.toml"]), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(n.ConfigFile, noon, noon.Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(n.at(c.path), c.mode); err != nil {
			t.Fatal(err)
		}
		r := Run(n)
		if c.mend == "" {
			if r.Worst != OK {
				t.Errorf("%s %o: %+v", c.path, c.mode, r.Above(Note))
			}
			continue
		}
		expect(t, r, "files.permissions", Error, c.path, c.mend+n.at(c.path))
	}
}

func TestOwner(t *testing.T) {
	n := healthy().node(t)
	n.Owner = os.Geteuid() + 1
	expect(t, Run(n), "files.permissions", Error, "master.key belongs to user", "chown root:root")
}

// What Docker starts needs no units.
func TestManagedPlugin(t *testing.T) {
	files := healthy()
	files["proc/700/cmdline"] = "/usr/bin/voluks\x00serve\x00--managed-plugin\x00"
	delete(files, "usr/lib/systemd/system/voluks.socket")
	expect(t, Run(files.node(t)), "systemd.units", Note, "managed plugin", "")
	files["proc/700/ns/mnt"] = "-> mnt:[2]"
	files["proc/700/mountinfo"] = strings.ReplaceAll(hostMounts, "shared:", "master:")
	expect(t, Run(files.node(t)), "agent.namespace", Error, "managed plugin mounts does not reach", "make-shared")
}

// In a managed plugin the agent has a mount namespace of its own, whose directory of mountpoints is shared with the host.
func TestPropagatedMount(t *testing.T) {
	files := healthy()
	files["proc/700/ns/mnt"] = "-> mnt:[2]"
	files["proc/700/mountinfo"] = "90 1 0:99 / / rw master:1 - overlay overlay rw\n91 90 8:17 / /var/lib/voluks rw shared:9 - ext4 /dev/sdb1 rw\n"
	r := Run(files.node(t))
	if r.Worst != OK {
		t.Errorf("%+v", r.Above(Note))
	}
}

func TestVersions(t *testing.T) {
	for version, want := range map[string]Level{
		"2.3.7": Error, "2.4.1": Warning, "2.4.3": Note, "2.6.1": Note, "2.7.0": Warning, "2.7.4": Warning, "2.7.5": Note, "2.8.0-rc1": Note, "2.8.5": OK, "3.0.0": OK,
		"": Unknown, "new": Unknown,
	} {
		n := healthy().node(t)
		n.Libcryptsetup = version
		f := findings{}
		libcryptsetup(n, &f)
		if len(f.list) != 1 || f.list[0].Level != want {
			t.Errorf("%q: %+v, want %s", version, f.list, want)
		}
	}
}

func TestInjectedAnswers(t *testing.T) {
	n := healthy().node(t)
	n.Keys = func(config.Config) error { return errors.New("the key is gone") }
	expect(t, Run(n), "keys", Error, "the key is gone", "")
	n = healthy().node(t)
	n.Plaintext = func() ([]string, error) { return []string{"container db keeps /data on a local volume"}, nil }
	expect(t, Run(n), "docker.plaintext", Warning, "container db", "driver: voluks")
	n.Plaintext = func() ([]string, error) { return nil, errors.New("docker is deaf") }
	expect(t, Run(n), "docker.plaintext", Unknown, "docker is deaf", "")
	n = healthy().node(t)
	n.Drills = func() ([]string, error) { return []string{"db: never tried"}, nil }
	expect(t, Run(n), "recovery.drill", Warning, "db: never tried", "voluks recovery verify")
	n.Drills = func() ([]string, error) { return nil, errors.New("no list") }
	expect(t, Run(n), "recovery.drill", Unknown, "no list", "")
}

func TestClockInThePast(t *testing.T) {
	n := healthy().node(t)
	n.Now = func() time.Time { return noon.Add(-24 * time.Hour) }
	expect(t, Run(n), "clock", Error, "record.json is from", "timedatectl")
}

// A check that hangs is one line of the report. F12
func TestSlowCheck(t *testing.T) {
	n := healthy().node(t)
	release := make(chan struct{})
	defer close(release)
	n.Plaintext = func() ([]string, error) { <-release; return nil, nil }
	n.Patience = 200 * time.Millisecond
	r := Run(n)
	expect(t, r, "docker.plaintext", Unknown, "no answer", "")
	if last := r.Findings[len(r.Findings)-1]; last.Check != "memory.argon2" {
		t.Errorf("the report ends with %s", last.Check)
	}
}

func TestLookAtThisMachine(t *testing.T) {
	root := t.TempDir()
	p := config.PathsUnder(root)
	r := Run(&Node{System: "/", Paths: p, ConfigFile: p.ConfigFile(), Owner: os.Geteuid(), Libcryptsetup: "2.6.1"})
	if !slices.ContainsFunc(r.Findings, func(f Finding) bool { return f.Check == "config" && strings.Contains(f.What, "not set up") }) {
		t.Errorf("not found out that nothing is set up: %+v", r.Findings)
	}
	if left, _ := filepath.Glob(root + "/*"); len(left) > 0 {
		t.Errorf("made %q", left)
	}
}

func TestJSON(t *testing.T) {
	b, err := json.Marshal(Report{Warning, []Finding{{"clock", Warning, "what", "why", "mend"}, {"cpu.aes", OK, "what", "why", ""}}})
	want := `{"worst":"warning","findings":[{"check":"clock","level":"warning","what":"what","why":"why","mend":"mend"},{"check":"cpu.aes","level":"ok","what":"what","why":"why"}]}`
	if err != nil || string(b) != want {
		t.Errorf("%v\n%s\nwant\n%s", err, b, want)
	}
}

func TestAboveSortsTheWorstFirst(t *testing.T) {
	r := Report{Findings: []Finding{{Check: "a", Level: Note}, {Check: "b", Level: Warning}, {Check: "c", Level: Error}, {Check: "d", Level: Warning}, {Check: "e", Level: OK}}}
	var got []string
	for _, f := range r.Above(Warning) {
		got = append(got, f.Check)
	}
	if s := strings.Join(got, ""); s != "cbd" {
		t.Errorf("got %s", s)
	}
}

func TestQuote(t *testing.T) {
	for in, want := range map[string]string{"/var/lib/voluks": "/var/lib/voluks", "/a b": "'/a b'", "/it's": `'/it'\''s'`} {
		if got := quote(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}
