// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// writes starts a container that appends to a file on its volume all the time, and returns how much it has written.
func writes(t *testing.T, name, volume string, args ...string) func() int {
	t.Helper()
	loop := "while :; do date >> /d/log && sync && usleep 100000; done"
	start(t, name, append(append(args, "-v", volume+":/d", image), "sh", "-c", loop)...)
	return func() int {
		t.Helper()
		n, err := strconv.Atoi(output(t, "docker", "exec", name, "sh", "-c", "wc -c < /d/log"))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// grows waits until a container has written more.
func grows(t *testing.T, size func() int) {
	t.Helper()
	before := size()
	eventually(t, func() error {
		if now := size(); now <= before {
			return fmt.Errorf("the container wrote nothing: %d bytes then, %d now", before, now)
		}
		return nil
	})
}

// The agent is stopped, and the next one takes long to start. Containers go on, and a new mount waits in the socket until it is answered. F20 F23
func TestAgentStopped(t *testing.T) {
	full(t)
	const hold = "/run/voluks-test-hold"
	v, w := newVolume(t, "stopold"), newVolume(t, "stopnew")
	size := writes(t, "sto1", v)
	t.Cleanup(func() { bothBack(t) })
	t.Cleanup(func() { os.Remove(hold) })
	writeUnit(t, "voluks.service.d/hold.conf", "[Service]\nExecStartPre=sh -c 'while [ -e "+hold+" ]; do sleep 0.2; done'\n")
	output(t, "touch", hold)
	output(t, "systemctl", "stop", "voluks.service")
	began := time.Now()
	done := make(chan error, 1)
	go func() {
		_, err := try("docker", "run", "--rm", "--network", "none", "-v", w+":/d", image, "touch", "/d/x")
		done <- err
	}()
	eventually(t, func() error {
		if got := state(t, "voluks.service", "ActiveState"); got != "activating" {
			return fmt.Errorf("the call has not started the agent, which is %s", got)
		}
		return nil
	})
	grows(t, size)
	select {
	case err := <-done:
		t.Fatalf("the mount did not wait for an agent: %v", err)
	default:
	}
	if err := os.Remove(hold); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Errorf("after %v: %v", time.Since(began).Round(time.Second), err)
	}
	grows(t, size)

	// Docker gives a plugin about 15 s when it starts.
	output(t, "systemctl", "stop", "voluks.service")
	began = time.Now()
	output(t, "curl", "-sSf", "--max-time", "15", "--unix-socket", "/run/docker/plugins/voluks.sock", "-X", "POST", "http://x/Plugin.Activate")
	t.Logf("first reply of an agent that was not running: %v", time.Since(began).Round(time.Millisecond))
}

// With live-restore containers outlive dockerd. The one that still runs keeps its one holder and its I/O; the one that died meanwhile loses its, and its
// volume is closed. F22
func TestDockerRestartedWithLiveRestore(t *testing.T) {
	full(t)
	const file = "/etc/docker/daemon.json"
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var settings map[string]any
	if err := json.Unmarshal(before, &settings); err != nil {
		t.Fatal(err)
	}
	settings["live-restore"] = true
	with, err := json.Marshal(settings)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(file, before, 0o644); err != nil {
			t.Error(err)
		}
		output(t, "systemctl", "reload", "docker.service")
	})
	if err := os.WriteFile(file, with, 0o644); err != nil {
		t.Fatal(err)
	}
	output(t, "systemctl", "reload", "docker.service")
	eventually(t, func() error {
		if out, err := try("docker", "info", "-f", "{{.LiveRestoreEnabled}}"); err != nil || out != "true" {
			return fmt.Errorf("live-restore is %s, %v", out, err)
		}
		return nil
	})

	alive, dead := newVolume(t, "lralive"), newVolume(t, "lrdead")
	size := writes(t, "lr1", alive)
	start(t, "lr2", "-v", dead+":/d", image, "sleep", "1000")
	pid := func(name string) string { return output(t, "docker", "inspect", "-f", "{{.State.Pid}}", name) }
	pid1, pid2 := pid("lr1"), pid("lr2")
	ids := holders(t, alive)
	output(t, "systemctl", "stop", "docker.service", "docker.socket")
	output(t, "kill", "-KILL", pid2)
	output(t, "systemctl", "start", "docker.service")
	dockerBack(t)
	if now := pid("lr1"); now != pid1 {
		t.Errorf("the container did not outlive dockerd: pid %s, was %s", now, pid1)
	}
	grows(t, size)
	if now := holders(t, alive); len(now) != 1 || !slices.Equal(now, ids) {
		t.Errorf("holders before %q, after %q", ids, now)
	}
	remove(t, "lr2")
	within(t, 2*time.Minute, func() error { return closed(dead) })
	output(t, "docker", "restart", "-t", "0", "lr1")
	if now := holders(t, alive); len(now) != 1 {
		t.Errorf("holders after a restart of the container: %q", now)
	}
	remove(t, "lr1")
	eventually(t, func() error { return closed(alive) })
}

// udev is stopped: what waits for it ends when its time is over, and leaves nothing behind that keeps the volume from working when udev goes on. F18
func TestUdevStopped(t *testing.T) {
	full(t)
	v := newVolume(t, "noudev")
	pid := mainPID(t, "systemd-udevd.service")
	output(t, "kill", "-STOP", pid)
	going := false
	goOn := func() {
		if !going {
			going = true
			output(t, "kill", "-CONT", pid)
			output(t, "udevadm", "settle")
		}
	}
	t.Cleanup(goOn)
	began := time.Now()
	out, err := try("curl", "-sS", "--max-time", "5", "--unix-socket", "/run/docker/plugins/voluks.sock", "-X", "POST", "-d", `{"Name":"`+v+`","ID":"x"}`, "http://x/VolumeDriver.Mount")
	if err == nil {
		t.Errorf("mounted without udev? %s", out)
	}
	out, err = try("timeout", "--kill-after=5", "5", "voluks", "volume", "mount", v)
	if err == nil {
		t.Errorf("mounted without udev? %s", out)
	}
	// The agent answers, and whatever waits now ends. It tries again to close what is left, so others wait then.
	output(t, "docker", "volume", "ls")
	waiting := func() []string {
		out, _ := try("pgrep", "-f", "^/proc/self/exe worker|voluks volume mount") // status 1: none
		return strings.Fields(out)
	}
	first := waiting()
	within(t, 2*time.Minute, func() error {
		left := slices.DeleteFunc(waiting(), func(pid string) bool { return !slices.Contains(first, pid) })
		if len(left) > 1 { // one is a spare
			return fmt.Errorf("these still wait: %s", strings.Join(left, " "))
		}
		return nil
	})
	t.Logf("everything ended within %v", time.Since(began).Round(time.Second))
	goOn()
	eventually(t, func() error {
		_, err := try("docker", "run", "--rm", "--network", "none", "-v", v+":/d", image, "touch", "/d/x")
		return err
	})
	eventually(t, func() error { return closed(v) })
}

// Somebody closes what is open by hand. It shows, nothing is given out that is not there, and the next use opens it again. F19
func TestClosedByHand(t *testing.T) {
	full(t)
	v := cliVolume(t, "byhand")
	output(t, "voluks", "boot", "enable", v, "--mount", "/srv/byhand", "--now")
	t.Cleanup(func() { output(t, "voluks", "boot", "disable", v, "--now") })
	output(t, "touch", "/srv/byhand/there")
	mapping := mappings(t)[0]
	output(t, "umount", "/srv/byhand")
	if _, err := try("umount", "/var/lib/voluks/mnt/"+v); err != nil {
		t.Log(err) // systemd, which saw the first, was faster
	}
	if _, err := try("cryptsetup", "close", mapping); err != nil {
		t.Log(err)
	}
	eventually(t, func() error {
		if info := inspect(t, v); info.State == "mounted" || info.Mountpoint != "" {
			return fmt.Errorf("it is %s at %q", info.State, info.Mountpoint)
		}
		return nil
	})
	if err := os.WriteFile("/srv/byhand/leak", []byte("plain"), 0o600); err == nil {
		t.Error("a file could be written where the volume is not mounted")
	}
	output(t, "systemctl", "start", "srv-byhand.mount")
	output(t, "stat", "/srv/byhand/there")
	if source := output(t, "findmnt", "-no", "SOURCE", "/srv/byhand"); source != "/dev/mapper/voluks-"+inspect(t, v).UUID+"[/data]" {
		t.Errorf("/srv/byhand is %s", source)
	}
}
