// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// Each start of a container is a Mount with an id of its own; two containers on one volume are two holders of one mapping. F16 F22
func TestEachStartIsOneHolder(t *testing.T) {
	full(t)
	v := newVolume(t, "holders")
	start(t, "h1", "-v", v+":/d", image, "sleep", "1000")
	first := holders(t, v)
	if len(first) != 1 {
		t.Fatalf("holders after one start: %q", first)
	}
	start(t, "h2", "-v", v+":/d", image, "sleep", "1000")
	both := holders(t, v)
	if len(both) != 2 || !slices.Contains(both, first[0]) {
		t.Fatalf("holders after a second start: %q, the first was %q", both, first)
	}
	if got := mappings(t); len(got) != 1 {
		t.Errorf("mappings for one volume: %q", got)
	}

	output(t, "docker", "restart", "-t", "0", "h1")
	after := holders(t, v)
	if len(after) != 2 || slices.Contains(after, first[0]) && slices.Equal(after, both) {
		t.Errorf("holders after a restart: %q, before: %q", after, both)
	}

	remove(t, "h1")
	if info := inspect(t, v); info.State != "mounted" || len(info.Holders) != 1 {
		t.Errorf("with one container left: %s, %d holders", info.State, len(info.Holders))
	}
	output(t, "docker", "exec", "h2", "sh", "-c", "echo still > /d/here && cat /d/here")
	remove(t, "h2")
	eventually(t, func() error { return closed(v) })
}

// Docker copies what the image has at the path into an empty volume, with a Mount and an Unmount of its own.
func TestCopyUpIntoAnEmptyVolume(t *testing.T) {
	full(t)
	t.Parallel()
	v := newVolume(t, "copyup")
	// lost+found would make the volume look used, and initdb refuse it. F26
	if out := output(t, "docker", "run", "--rm", "-v", v+":/root2", image, "ls", "-A", "/root2"); out != "" {
		t.Errorf("a fresh volume is not empty: %q", out)
	}
	if out := output(t, "docker", "run", "--rm", "-v", v+":/bin", "--entrypoint", "/bin/busybox", image, "ls", "/bin/busybox"); out != "/bin/busybox" {
		t.Errorf("after the copy-up: %q", out)
	}
	eventually(t, func() error { return closed(v) })
}

// docker cp sends Mount and Unmount with the id of the running container, whose holder thereby goes. The container must not notice, the volume must
// not be taken for unused, and it must be closed in the end. F22
func TestCopyWithDockerCp(t *testing.T) {
	full(t)
	t.Parallel()
	v := newVolume(t, "cp")
	start(t, "cp1", "-v", v+":/d", image, "sleep", "1000")
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, []byte("by cp"), 0o644); err != nil {
		t.Fatal(err)
	}
	output(t, "docker", "cp", file, "cp1:/d/file")
	if got := output(t, "docker", "exec", "cp1", "cat", "/d/file"); got != "by cp" {
		t.Errorf("through the running container: %q", got)
	}
	if said := refused(t, "voluks", "volume", "rm", "--force", v); !strings.Contains(said, "in use") {
		t.Errorf("rm of the volume of a running container: %s", said)
	}
	output(t, "docker", "exec", "cp1", "sh", "-c", "echo on > /d/on && sync")
	output(t, "docker", "stop", "-t", "0", "cp1")
	output(t, "docker", "cp", file, "cp1:/d/file2")
	eventually(t, func() error { return closed(v) })
}

// Without live-restore, a restart of dockerd unmounts everything and mounts it anew for what comes back.
func TestDockerRestarted(t *testing.T) {
	full(t)
	v := newVolume(t, "drestart")
	start(t, "dr1", "--restart", "always", "-v", v+":/d", image, "sh", "-c", "echo start >> /d/log; sleep 1000")
	before := holders(t, v)
	output(t, "systemctl", "restart", "docker.service")
	dockerBack(t)
	eventually(t, func() error { return running("dr1") })
	after := holders(t, v)
	if len(after) != 1 || slices.Equal(before, after) {
		t.Errorf("holders before %q and after %q", before, after)
	}
	eventually(t, func() error {
		if log := output(t, "docker", "exec", "dr1", "cat", "/d/log"); strings.Count(log, "start") != 2 {
			return fmt.Errorf("the log on the volume: %q", log)
		}
		return nil
	})
}

// A killed dockerd never unmounts: what still runs is mounted again with the same id, and what died meanwhile is a stale holder. F21 F22
func TestDockerKilled(t *testing.T) {
	full(t)
	alive, dead := newVolume(t, "dalive"), newVolume(t, "ddead")
	start(t, "dk1", "--restart", "always", "-v", alive+":/d", image, "sleep", "1000")
	start(t, "dk2", "-v", dead+":/d", image, "sleep", "1000")
	pid := output(t, "docker", "inspect", "-f", "{{.State.Pid}}", "dk2")
	before := holders(t, alive)

	output(t, "systemctl", "kill", "-s", "KILL", "--kill-whom", "main", "docker.service")
	output(t, "kill", "-KILL", pid)
	bothBack(t)
	eventually(t, func() error { return running("dk1") })
	output(t, "docker", "exec", "dk1", "sh", "-c", "echo on > /d/x && cat /d/x")
	if after := holders(t, alive); len(after) != 1 || !slices.Equal(before, after) {
		t.Errorf("holders of the volume in use: %q, before the kill: %q", after, before)
	}
	remove(t, "dk2")
	eventually(t, func() error { return closed(dead) })
	if info := inspect(t, alive); info.State != "mounted" {
		t.Errorf("the volume in use is %s", info.State)
	}
}

// Remove stops while anything uses the volume, with -f too. F25
func TestRemoveInUse(t *testing.T) {
	full(t)
	t.Parallel()
	v := newVolume(t, "rmused")
	start(t, "rm1", "-v", v+":/d", image, "sleep", "1000")
	refused(t, "docker", "volume", "rm", v)
	refused(t, "docker", "volume", "rm", "-f", v)
	if said := refused(t, "voluks", "volume", "rm", "--force", v); !strings.Contains(said, "held by docker") {
		t.Errorf("voluks does not say who holds it: %s", said)
	}
	output(t, "docker", "exec", "rm1", "sh", "-c", "echo there > /d/x && cat /d/x")
}

// The same name and options again is the same volume; other options are an error that names them. F10
func TestCreateAgain(t *testing.T) {
	full(t)
	t.Parallel()
	v := newVolume(t, "again")
	output(t, "docker", "run", "--rm", "-v", v+":/d", image, "sh", "-c", "echo kept > /d/x")
	output(t, "docker", "volume", "create", "-d", "voluks", "-o", "size=32M", v)
	output(t, "voluks", "volume", "create", "--size", "32M", v)
	if said := refused(t, "voluks", "volume", "create", "--size", "64M", v); !strings.Contains(said, "size") {
		t.Errorf("the difference is not named: %s", said)
	}
	if got := output(t, "docker", "run", "--rm", "-v", v+":/d", image, "cat", "/d/x"); got != "kept" {
		t.Errorf("the content is %q", got)
	}
}

// Everybody can read the options, so nothing secret is taken there. F28 F41
func TestSecretOption(t *testing.T) {
	full(t)
	t.Parallel()
	for _, option := range []string{"passphrase=hunter2", "key=hunter2", "password=hunter2"} {
		said := refused(t, "docker", "volume", "create", "-d", "voluks", "-o", option, "leak")
		if strings.Contains(strings.SplitN(said, "\n", 2)[1], "hunter2") || !strings.Contains(said, "docker volume inspect") {
			t.Errorf("%s: %s", option, said)
		}
	}
	if said := refused(t, "docker", "volume", "create", "-d", "voluks", "-o", "sise=1G", "misspelt"); !strings.Contains(said, "size") {
		t.Errorf("a misspelt option: %s", said)
	}
	if out := output(t, "voluks", "volume", "ls"); strings.Contains(out, "leak") || strings.Contains(out, "misspelt") {
		t.Errorf("left behind: %s", out)
	}
}

// Docker's Status tells what people ask for, and no secret.
func TestStatusInInspect(t *testing.T) {
	full(t)
	t.Parallel()
	v := newVolume(t, "status")
	start(t, "st1", "-v", v+":/d", image, "sleep", "1000")
	status := output(t, "docker", "volume", "inspect", "-f", "{{json .Status}}", v)
	for _, want := range []string{"state", "mounted", "aes-xts-plain64", "uuid", "size", "used"} {
		if !strings.Contains(status, want) {
			t.Errorf("no %q in %s", want, status)
		}
	}
}

// What the plugin refuses Docker does not remove, with -f too. No container has it, so it is not Docker that refuses. F25
func TestRemoveRefusedByThePlugin(t *testing.T) {
	full(t)
	t.Parallel()
	v := newVolume(t, "rmheld")
	output(t, "voluks", "volume", "mount", v)
	t.Cleanup(func() { output(t, "voluks", "volume", "umount", v) })
	for _, args := range [][]string{{"docker", "volume", "rm", v}, {"docker", "volume", "rm", "-f", v}} {
		if said := refused(t, args...); !strings.Contains(said, "held by cli") {
			t.Errorf("%s does not say who holds it: %s", strings.Join(args, " "), said)
		}
	}
	if info := inspect(t, v); info.State != "mounted" {
		t.Errorf("afterwards it is %s", info.State)
	}
}

// An error from Unmount is swallowed by Docker: the container stops all the same, and starts again while the volume is still closing. F17
func TestUnmountThatFails(t *testing.T) {
	full(t)
	v := newVolume(t, "umfails")
	start(t, "uf1", "-v", v+":/d", image, "sleep", "1000")
	info := inspect(t, v)
	output(t, "docker", "exec", "uf1", "sh", "-c", "echo kept > /d/x && sync")
	f, err := os.Open(info.Mountpoint) // a user of the host's
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	output(t, "docker", "stop", "-t", "0", "uf1")
	if info := inspect(t, v); info.State != "closing" || len(info.Holders) != 0 {
		t.Errorf("after the stop: %s, %d holders", info.State, len(info.Holders))
	}
	output(t, "docker", "start", "uf1")
	if got := output(t, "docker", "exec", "uf1", "cat", "/d/x"); got != "kept" {
		t.Errorf("the content is %q", got)
	}
	if got := mappings(t); len(got) != 1 {
		t.Errorf("mappings: %q", got)
	}
	f.Close()
	remove(t, "uf1")
	eventually(t, func() error { return closed(v) })
}
