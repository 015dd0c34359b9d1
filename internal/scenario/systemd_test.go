// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/doctor"
)

// mostExposed is the exposure that docs/boot.md names for the agent's unit, in tenths. A setting that makes it worse must be meant.
const mostExposed = 51

// writeUnit installs a unit of the test until its end.
func writeUnit(t *testing.T, name, content string) {
	t.Helper()
	path := filepath.Join("/etc/systemd/system", name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	output(t, "systemctl", "daemon-reload")
	t.Cleanup(func() {
		if unit := strings.Split(name, "/")[0]; !strings.HasSuffix(unit, ".d") {
			try("systemctl", "stop", unit)
		}
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
		output(t, "systemctl", "daemon-reload")
	})
}

// cliVolume makes a volume with the command line.
func cliVolume(t *testing.T, name string) string {
	t.Helper()
	output(t, "voluks", "volume", "create", "--size", "32M", name)
	t.Cleanup(func() {
		eventually(t, func() error {
			if _, err := try("voluks", "volume", "rm", "--force", name); err != nil {
				return err
			}
			return closed(name)
		})
	})
	return name
}

func active(unit string) error {
	out, err := try("systemctl", "is-active", unit)
	if out != "active" {
		return fmt.Errorf("%s is %s (%v)", unit, out, err)
	}
	return nil
}

// The agent is shut in as far as its mounts still reach the host, and no change makes it worse unnoticed.
func TestExposureOfTheAgent(t *testing.T) {
	full(t)
	for kind, want := range map[string]bool{"mnt": true, "ipc": true} {
		host, err := os.Readlink("/proc/1/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		agents, err := os.Readlink("/proc/" + mainPID(t, "voluks.service") + "/ns/" + kind)
		if err != nil {
			t.Fatal(err)
		}
		if (host == agents) != want {
			t.Errorf("the agent's %s namespace is %s, the host's %s", kind, agents, host)
		}
	}
	out := output(t, "sh", "-c", "systemd-analyze security --no-pager voluks.service | tail -n 1")
	_, rest, ok := strings.Cut(out, "voluks.service: ")
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		t.Fatalf("systemd-analyze says %q", out)
	}
	exposure, err := strconv.ParseFloat(fields[0], 64)
	if err != nil {
		t.Fatal(err)
	}
	if int(exposure*10+0.5) > mostExposed {
		t.Errorf("exposure %.1f, documented are %.1f", exposure, float64(mostExposed)/10)
	}
}

// A volume for services of the host: mounted before them, with them, and closed after them.
func TestBootMountNow(t *testing.T) {
	full(t)
	v := cliVolume(t, "bnow")
	output(t, "voluks", "boot", "enable", v, "--mount", "/srv/bnow")
	t.Cleanup(func() {
		try("voluks", "boot", "disable", v, "--now")
		if _, err := os.Stat("/srv/bnow"); err == nil {
			t.Error("/srv/bnow is still there")
		}
	})
	if err := os.WriteFile("/srv/bnow/leak", []byte("plain"), 0o600); err == nil {
		t.Error("a file could be written where the volume is not mounted")
	}

	writeUnit(t, "uses-bnow.service", "[Unit]\nRequiresMountsFor=/srv/bnow\n[Service]\nExecStart=sh -c 'echo started >>/srv/bnow/log; exec sleep 1000'\n")
	output(t, "systemctl", "start", "uses-bnow.service")
	eventually(t, func() error {
		_, err := os.ReadFile("/srv/bnow/log")
		return err
	})
	info := inspect(t, v)
	if info.State != "mounted" || len(info.Holders) != 1 || info.Holders[0].Kind != "systemd" {
		t.Errorf("%s, holders %v", info.State, info.Holders)
	}
	if source := output(t, "findmnt", "-no", "SOURCE", "/srv/bnow"); source != "/dev/mapper/voluks-"+info.UUID+"[/data]" {
		t.Errorf("/srv/bnow is %s", source)
	}
	if out := output(t, "voluks", "boot", "ls"); !strings.Contains(out, "/srv/bnow") || !strings.Contains(out, "yes") {
		t.Errorf("boot ls: %s", out)
	}

	// The container gets the same directory.
	if got := output(t, "docker", "run", "--rm", "--network", "none", "-v", v+":/d", image, "cat", "/d/log"); got != "started" {
		t.Errorf("through Docker: %q", got)
	}
	if err := active("srv-bnow.mount"); err != nil {
		t.Error(err)
	}

	// Whoever stops the mount stops the service and closes the volume.
	output(t, "systemctl", "stop", "srv-bnow.mount")
	eventually(t, func() error { return closed(v) })
	if out, _ := try("systemctl", "is-active", "uses-bnow.service"); out != "inactive" {
		t.Errorf("the service without its mount is %s", out)
	}
	// Removing it by force is not possible while it is in use.
	output(t, "systemctl", "start", "uses-bnow.service")
	refused(t, "voluks", "volume", "rm", "--force", v)
}

// Two mounts of one volume, and two services that wait for it: one unlock, one mapping.
func TestTwoUnitsWaitForOneVolume(t *testing.T) {
	full(t)
	v := cliVolume(t, "btwo")
	for _, where := range []string{"/srv/btwo-a", "/srv/btwo-b"} {
		output(t, "voluks", "boot", "enable", v, "--mount", where, "--timeout", "30s")
	}
	t.Cleanup(func() { output(t, "voluks", "boot", "disable", v, "--now") })
	for _, x := range []string{"a", "b"} {
		writeUnit(t, "uses-btwo-"+x+".service", "[Unit]\nRequiresMountsFor=/srv/btwo-"+x+"\n[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=touch /srv/btwo-"+x+"/"+x+"\n")
	}
	output(t, "systemctl", "start", "uses-btwo-a.service", "uses-btwo-b.service")
	if got := output(t, "ls", "/srv/btwo-a"); got != "a\nb" {
		t.Errorf("in the volume: %q", got)
	}
	if info := inspect(t, v); len(info.Holders) != 1 {
		t.Errorf("holders: %v", info.Holders)
	}
	if got := mappings(t); len(got) != 1 {
		t.Errorf("mappings: %q", got)
	}
	output(t, "systemctl", "stop", "srv-btwo\\x2da.mount")
	if info := inspect(t, v); info.State != "mounted" {
		t.Errorf("with one mount left it is %s", info.State)
	}
	output(t, "systemctl", "stop", "srv-btwo\\x2db.mount")
	eventually(t, func() error { return closed(v) })
}

// udev fails to see the file system for a moment. systemd's rules take the device for unready then, and nothing is unmounted. F19
func TestUnreadyDevice(t *testing.T) {
	full(t)
	const rule = "/run/udev/rules.d/98-test.rules"
	v := cliVolume(t, "bready")
	output(t, "voluks", "boot", "enable", v, "--mount", "/srv/bready", "--now")
	t.Cleanup(func() { output(t, "voluks", "boot", "disable", v, "--now") })
	w := newVolume(t, "breadyd")
	start(t, "br1", "-v", w+":/d", image, "sleep", "1000")
	if err := os.MkdirAll(filepath.Dir(rule), 0o755); err != nil {
		t.Fatal(err)
	}
	uevent := func() {
		for _, mapping := range mappings(t) {
			device, err := filepath.EvalSymlinks("/dev/mapper/" + mapping)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile("/sys/block/"+filepath.Base(device)+"/uevent", []byte("change"), 0o200); err != nil {
				t.Fatal(err)
			}
		}
		output(t, "udevadm", "settle")
	}
	if err := os.WriteFile(rule, []byte(`SUBSYSTEM=="block", ENV{DM_NAME}=="voluks-*", ENV{ID_FS_USAGE}=""`+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(rule); err != nil {
			t.Error(err)
		}
		output(t, "udevadm", "control", "--reload")
		uevent()
	})
	output(t, "udevadm", "control", "--reload")
	uevent()
	if usage := output(t, "sh", "-c", "udevadm info /dev/mapper/voluks-* | grep ID_FS_USAGE || true"); usage != "" {
		t.Fatalf("the rule of the test has no effect: %s", usage)
	}
	// What systemd would do it does at once: when it answers a later request it has done it.
	output(t, "systemctl", "daemon-reload")
	if err := active("srv-bready.mount"); err != nil {
		t.Error(err)
	}
	output(t, "touch", "/srv/bready/x")
	output(t, "docker", "exec", "br1", "touch", "/d/x")
	if info := inspect(t, w); info.State != "mounted" || info.Mountpoint == "" {
		t.Errorf("the volume of the container is %s", info.State)
	}
}

// With a configuration that is wrong the agent fails at each call. The socket stays, and the first call after the mending is answered.
func TestWrongConfigurationKeepsTheSocket(t *testing.T) {
	full(t)
	const file = "/etc/voluks/config.toml"
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(file, good, 0o644); err != nil {
			t.Error(err)
		}
		bothBack(t)
	})
	output(t, "systemctl", "stop", "voluks.service")
	if err := os.WriteFile(file, []byte("nonsense = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	// A call that waits makes systemd start the agent again and again.
	call := exec.Command("curl", "-sS", "--max-time", "15", "--unix-socket", "/run/docker/plugins/voluks.sock", "-X", "POST", "http://x/VolumeDriver.List")
	if err := call.Run(); err == nil {
		t.Error("an agent with a wrong configuration answers")
	}
	if err := active("voluks.socket"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, good, 0o644); err != nil {
		t.Fatal(err)
	}
	output(t, "curl", "-sSf", "--max-time", "100", "--unix-socket", "/run/docker/plugins/voluks.sock", "-X", "POST", "http://x/VolumeDriver.List")
}

// reload looks at the configuration and says what it thinks of it.
func TestReloadUnit(t *testing.T) {
	full(t)
	pid := mainPID(t, "voluks.service")
	output(t, "systemctl", "reload", "voluks.service")
	eventually(t, func() error {
		if log := output(t, "journalctl", "-b", "-u", "voluks.service", "-n", "50", "--no-pager"); !strings.Contains(log, "configuration is right") {
			return fmt.Errorf("the journal says nothing of it")
		}
		return nil
	})
	if now := mainPID(t, "voluks.service"); now != pid {
		t.Errorf("pid %s, before %s", now, pid)
	}
}

// Only the end of the system stops what closes all volumes.
func TestNobodyStopsTheShutdownUnit(t *testing.T) {
	full(t)
	if err := active("voluks-shutdown.service"); err != nil {
		t.Fatal(err)
	}
	refused(t, "systemctl", "stop", "voluks-shutdown.service")
	refused(t, "systemctl", "restart", "voluks-shutdown.service")
}

// On a node that works the doctor has no error to tell, and names what it was shown. F18
func TestDoctor(t *testing.T) {
	full(t)
	look := func() (doctor.Report, error) {
		out, err := try("voluks", "--format", "json", "doctor")
		var r doctor.Report
		if e := json.Unmarshal([]byte(out), &r); e != nil {
			t.Fatalf("%v: %s", e, out)
		}
		return r, err
	}
	r, err := look()
	if err != nil {
		t.Errorf("%v: %+v", err, r.Above(doctor.Error))
	}
	if unknown := r.Above(doctor.Unknown); len(unknown) > 0 {
		for _, f := range unknown {
			if f.Level == doctor.Unknown {
				t.Errorf("%s: %s", f.Check, f.What)
			}
		}
	}
	find := func(check, what string) {
		t.Helper()
		r, _ := look()
		for _, f := range r.Findings {
			if f.Check == check && strings.Contains(f.What, what) && f.Level.Worse(doctor.Note) {
				return
			}
		}
		t.Errorf("%s does not find %q: %+v", check, what, r.Above(doctor.Warning))
	}

	pid := mainPID(t, "systemd-udevd.service")
	output(t, "kill", "-STOP", pid)
	find("udev.running", "is stopped")
	output(t, "kill", "-CONT", pid)

	output(t, "docker", "volume", "create", "plain-beside")
	t.Cleanup(func() { output(t, "docker", "volume", "rm", "plain-beside") })
	start(t, "pb1", "-v", "plain-beside:/d", image, "sleep", "1000")
	find("docker.plaintext", "pb1")
	remove(t, "pb1")

	if err := os.Chmod("/etc/voluks/master.key", 0o644); err != nil {
		t.Fatal(err)
	}
	find("files.permissions", "master.key")
	if err := os.Chmod("/etc/voluks/master.key", 0o600); err != nil {
		t.Fatal(err)
	}

	writeUnit(t, "voluks.service.d/wrong.conf", "[Service]\nPrivateTmp=yes\n")
	output(t, "systemctl", "restart", "voluks.service")
	find("agent.namespace", "do not reach the host")
	output(t, "rm", "/etc/systemd/system/voluks.service.d/wrong.conf")
	output(t, "systemctl", "daemon-reload")
	output(t, "systemctl", "restart", "voluks.service")
	output(t, "touch", "/etc/systemd/system/voluks.service.d/wrong.conf") // for the clean-up
}
