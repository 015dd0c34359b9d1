// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/doctor"
)

// managed is what the managed plugin is called, since "voluks" is taken by the units here.
const managed = "voluks-managed"

// TestManagedPlugin is the life of the managed plugin: a container on a volume of it, which the command line of the host sees as any other; the plugin killed,
// disabled, replaced by a new version, and dockerd restarted. What a container has it keeps. F18 F20 F23
func TestManagedPlugin(t *testing.T) {
	full(t)
	output(t, "systemctl", "stop", "voluks.socket", "voluks.service")
	t.Cleanup(func() { bothBack(t) })
	install := func() {
		output(t, "docker", "plugin", "create", managed, "/mnt/share/plugin")
		output(t, "docker", "plugin", "enable", managed)
	}
	install()
	t.Cleanup(func() {
		output(t, "docker", "plugin", "rm", "-f", managed)
	})

	const v = "managed"
	output(t, "docker", "volume", "create", "-d", managed, "-o", "size=32M", v)
	t.Cleanup(func() {
		output(t, "docker", "volume", "rm", v)
		if err := closed(v); err != nil {
			t.Error(err)
		}
	})
	start(t, "mp1", "--restart", "always", "-v", v+":/d", image, "sh", "-c", "while :; do date >> /d/log && sync && usleep 100000; done")
	seen(t, v, 1)
	healthy(t)

	// goesOn fails unless the container writes on.
	goesOn := func(after string) {
		t.Helper()
		lines := func() string { return output(t, "docker", "exec", "mp1", "sh", "-c", "wc -l < /d/log") }
		before := lines()
		eventually(t, func() error {
			if lines() == before {
				return fmt.Errorf("%s the container does not write", after)
			}
			return nil
		})
	}

	old := agent(t)
	output(t, "kill", "-9", old)
	goesOn("after the agent was killed")
	again(t, v)
	if now := agent(t); now == old {
		t.Errorf("the agent is still process %s", now)
	}
	seen(t, v, 1)

	if said := refused(t, "docker", "plugin", "disable", managed); !strings.Contains(said, "in use") {
		t.Errorf("the plugin can be disabled: %s", said)
	}
	output(t, "docker", "plugin", "disable", "-f", managed)
	goesOn("without the plugin")
	seen(t, v, 1)
	output(t, "docker", "plugin", "rm", "-f", managed)
	install()
	again(t, v)
	goesOn("with a new version of the plugin")
	seen(t, v, 1)

	output(t, "systemctl", "restart", "docker.service")
	dockerBack(t)
	eventually(t, func() error { return running("mp1") })
	goesOn("after dockerd was restarted")
	again(t, v)
	seen(t, v, 1)
	healthy(t)

	remove(t, "mp1")
	eventually(t, func() error { return closed(v) })
}

// agent is the process of the one agent.
func agent(t *testing.T) string {
	t.Helper()
	pid, err := os.ReadFile("/run/voluks/agent.lock")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(pid))
}

// seen waits until the command line of the host sees the volume mounted, by that many holders.
func seen(t *testing.T, volume string, holders int) {
	t.Helper()
	eventually(t, func() error {
		info, err := look(volume)
		if err == nil && (info.State != "mounted" || len(info.Holders) != holders) {
			err = fmt.Errorf("the host sees %s %s (%s) with %d holders, not %d", volume, info.State, info.Reason, len(info.Holders), holders)
		}
		return err
	})
}

// again lets a further container read what the first one writes. Docker may be starting the plugin at that moment.
func again(t *testing.T, volume string) {
	t.Helper()
	eventually(t, func() error {
		out, err := try("docker", "run", "--rm", "--network", "none", "-v", volume+":/d", image, "tail", "-n", "1", "/d/log")
		if err == nil && out == "" {
			err = fmt.Errorf("another container reads nothing")
		}
		return err
	})
}

// healthy asks doctor about what a managed plugin gets wrong most easily.
func healthy(t *testing.T) {
	t.Helper()
	out, err := try("voluks", "--format", "json", "doctor")
	var report doctor.Report
	if err2 := json.Unmarshal([]byte(out), &report); err2 != nil {
		t.Fatalf("doctor: %v, %v: %s", err2, err, out)
	}
	for _, f := range report.Findings {
		switch f.Check {
		case "agent.running", "agent.namespace", "udev.ipc", "systemd.units":
			if f.Level.Worse(doctor.Note) {
				t.Errorf("%s: %s: %s", f.Level, f.Check, f.What)
			}
		}
	}
}
