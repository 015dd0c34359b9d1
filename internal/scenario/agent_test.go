// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// A killed agent stops no I/O, and the socket brings it back for the next call. F20 F24
func TestAgentKilled(t *testing.T) {
	full(t)
	v := newVolume(t, "akill")
	size := writes(t, "ak1", v)
	old := mainPID(t, "voluks.service")
	output(t, "systemctl", "kill", "-s", "KILL", "--kill-whom", "all", "voluks.service")
	output(t, "docker", "volume", "inspect", v) // answered by the next agent
	eventually(t, func() error {
		if pid := mainPID(t, "voluks.service"); pid == old || pid == "0" {
			return fmt.Errorf("main pid of the agent: %s", pid)
		}
		return nil
	})
	grows(t, size)
	if info := inspect(t, v); info.State != "mounted" || len(info.Holders) != 1 {
		t.Errorf("after the kill: %s, %d holders", info.State, len(info.Holders))
	}
	remove(t, "ak1")
	eventually(t, func() error { return closed(v) })
}

// While the agent is stopped the socket is there: dockerd that starts meanwhile gets its answer, and restart=always comes back. F23
func TestAgentStoppedWhileDockerStarts(t *testing.T) {
	full(t)
	v := newVolume(t, "astop")
	start(t, "as1", "--restart", "always", "-v", v+":/d", image, "sleep", "1000")
	t.Cleanup(func() { bothBack(t) })
	output(t, "systemctl", "stop", "voluks.service")
	output(t, "systemctl", "restart", "docker.service")
	dockerBack(t)
	eventually(t, func() error { return running("as1") })
	if got := output(t, "systemctl", "is-active", "voluks.service"); got != "active" {
		t.Errorf("the agent is %s", got)
	}
}

// More failures in a row than systemd allows by default must not take the socket down with the service.
func TestNoStartLimit(t *testing.T) {
	full(t)
	t.Cleanup(func() { bothBack(t) })
	for range 6 {
		if _, err := try("systemctl", "kill", "-s", "KILL", "voluks.service"); err != nil {
			t.Log(err) // it was not up yet; the next call brings it
		}
		output(t, "docker", "volume", "ls")
	}
	if got := output(t, "systemctl", "is-active", "voluks.socket"); got != "active" {
		t.Errorf("the socket is %s", got)
	}
}

// A second agent says that there is one, and leaves the first alone.
func TestSecondAgent(t *testing.T) {
	full(t)
	said := refused(t, "voluks", "serve")
	if !strings.Contains(said, mainPID(t, "voluks.service")) {
		t.Errorf("the running agent is not named: %s", said)
	}
	output(t, "docker", "volume", "ls")
}

// Closing while another mount namespace has the file system: the holder goes, the mapping stays, and it is closed later without being asked. F17
func TestBusyInAnotherNamespace(t *testing.T) {
	full(t)
	v := newVolume(t, "foreign")
	start(t, "fn1", "-v", v+":/d", image, "sleep", "1000")
	output(t, "systemd-run", "--quiet", "--unit", "keeps-a-namespace", "unshare", "--mount", "--propagation", "private", "sleep", "1000")
	t.Cleanup(func() {
		if _, err := try("systemctl", "stop", "keeps-a-namespace"); err != nil {
			t.Log(err)
		}
	})
	pid := mainPID(t, "keeps-a-namespace.service")
	eventually(t, func() error {
		mounts, err := os.ReadFile("/proc/" + pid + "/mountinfo")
		if err == nil && !strings.Contains(string(mounts), "/var/lib/voluks/mnt/"+v) {
			err = fmt.Errorf("the namespace does not have the mount")
		}
		return err
	})

	remove(t, "fn1")
	info := inspect(t, v)
	if len(info.Holders) != 0 || len(mappings(t)) != 1 || info.State != "closing" {
		t.Errorf("%d holders, mappings %q, state %s (%s)", len(info.Holders), mappings(t), info.State, info.Reason)
	}
	if !strings.Contains(info.Reason, pid) {
		t.Errorf("who keeps it (pid %s) is not said: %q", pid, info.Reason)
	}
	start(t, "fn2", "-v", v+":/d", image, "sh", "-c", "echo again > /d/x; sleep 1000") // usable meanwhile, on the same mapping
	if got := mappings(t); len(got) != 1 {
		t.Errorf("mappings: %q", got)
	}
	remove(t, "fn2")
	output(t, "systemctl", "stop", "keeps-a-namespace")
	eventually(t, func() error { return closed(v) })
}

// A device that does not answer: its volume is stuck, and everything about every other volume goes on as before. F12
func TestStuckVolume(t *testing.T) {
	full(t)
	stuck, fine := newVolume(t, "stuck"), newVolume(t, "fine")
	start(t, "sv1", "-v", stuck+":/d", image, "sleep", "1000")
	mapping := mappings(t)[0]
	output(t, "dmsetup", "suspend", mapping)
	resumed := false
	resume := func() {
		if !resumed {
			resumed = true
			output(t, "dmsetup", "resume", mapping)
		}
	}
	t.Cleanup(resume)

	done := make(chan error, 1)
	go func() {
		_, err := try("voluks", "volume", "umount", "--force", stuck)
		done <- err
	}()
	began := time.Now()
	output(t, "docker", "run", "--rm", "--network", "none", "-v", fine+":/d", image, "sh", "-c", "echo x > /d/x")
	output(t, "docker", "volume", "ls")
	output(t, "docker", "volume", "inspect", stuck)
	output(t, "voluks", "volume", "ls")
	if took := time.Since(began); took > 60*time.Second {
		t.Errorf("the other volumes took %v", took)
	}
	resume()
	<-done
}

// The volumes are there after a crash of everything: the agent's state under /run tells it what was mounted, the kernel what is.
func TestAgentRestartedKeepsMounts(t *testing.T) {
	full(t)
	v := newVolume(t, "arestart")
	start(t, "ar1", "-v", v+":/d", image, "sleep", "1000")
	before := holders(t, v)
	output(t, "systemctl", "restart", "voluks.service")
	if after := holders(t, v); len(after) != 1 || after[0] != before[0] {
		t.Errorf("holders before %q, after %q", before, after)
	}
	output(t, "docker", "exec", "ar1", "sh", "-c", "echo on > /d/x && sync")
	remove(t, "ar1")
	eventually(t, func() error { return closed(v) })
}
