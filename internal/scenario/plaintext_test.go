// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// With the plugin away and dockerd restarted, `docker run -v` silently makes a local volume of the name. voluks must find it. F28
func TestLocalVolumeShadowsOurs(t *testing.T) {
	full(t)
	output(t, "voluks", "volume", "create", "--size", "32M", "shadowed")
	t.Cleanup(func() {
		remove(t, "sh1")
		bothBack(t)
		if _, err := try("docker", "volume", "rm", "shadowed"); err != nil {
			t.Error(err)
		}
		eventually(t, func() error {
			_, err := try("voluks", "volume", "rm", "--force", "shadowed")
			return err
		})
	})
	output(t, "systemctl", "stop", "voluks.socket", "voluks.service")
	output(t, "systemctl", "restart", "docker.service")
	dockerBack(t)
	output(t, "docker", "run", "-d", "--name", "sh1", "-v", "shadowed:/d", image, "sleep", "1000")
	if got := output(t, "docker", "volume", "inspect", "-f", "{{.Driver}}", "shadowed"); got != "local" {
		t.Fatalf("Docker made a %s volume: this test is about nothing", got)
	}
	bothBack(t)
	for _, args := range [][]string{{"volume", "ls"}, {"volume", "inspect", "shadowed"}} {
		out, err := try(append([]string{"sh", "-c", `exec voluks "$@" 2>&1`, "sh"}, args...)...)
		if err != nil || !strings.Contains(out, "local") || !strings.Contains(out, "shadowed") {
			t.Errorf("voluks %s says nothing of the local volume (%v):\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// A container on an anonymous or local volume is named.
func TestAnonymousVolumeIsNamed(t *testing.T) {
	full(t)
	start(t, "anon1", "-v", "/anonymous", image, "sleep", "1000")
	t.Cleanup(func() { output(t, "docker", "volume", "prune", "-f") })
	out := output(t, "sh", "-c", "voluks volume ls 2>&1")
	if !strings.Contains(out, "anon1") {
		t.Errorf("volume ls says nothing of the anonymous volume:\n%s", out)
	}
}

// The bare mountpoint of a volume that is not mounted takes no file, root or not. F21
func TestBareMountpointTakesNothing(t *testing.T) {
	full(t)
	t.Parallel()
	v := newVolume(t, "bare")
	output(t, "docker", "run", "--rm", "-v", v+":/d", image, "true")
	eventually(t, func() error { return closed(v) })
	if err := os.WriteFile(filepath.Join("/var/lib/voluks/mnt", v, "leak"), []byte("plain"), 0o600); err == nil {
		t.Error("a file could be written to the bare mountpoint")
	}
	if err := os.Mkdir(filepath.Join("/var/lib/voluks/mnt", v, "data"), 0o700); err == nil {
		t.Error("a directory could be made in the bare mountpoint")
	}
}

// What a container writes is nowhere on the host's disk in clear, and is found by the same search in a local volume.
func TestContentIsCiphertext(t *testing.T) {
	full(t)
	t.Parallel()
	const canary = "canary-7d1f0c3ab0"
	v := newVolume(t, "cipher")
	output(t, "docker", "run", "--rm", "-v", v+":/d", image, "sh", "-c", "for i in 1 2 3; do echo "+canary+" > /d/$i; done; sync")
	eventually(t, func() error { return closed(v) })
	search := func(dir string) string {
		out, _ := try("grep", "-rlaF", canary, dir) // status 1: nothing found
		return out
	}
	if found := search("/var/lib/voluks"); found != "" {
		t.Errorf("in clear in %s", found)
	}
	output(t, "docker", "volume", "create", "control")
	t.Cleanup(func() { output(t, "docker", "volume", "rm", "control") })
	output(t, "docker", "run", "--rm", "-v", "control:/d", image, "sh", "-c", "echo "+canary+" > /d/1; sync")
	if search("/var/lib/docker/volumes/control") == "" {
		t.Error("the search does not find the control")
	}
}

// The master key is gone: volumes stay closed, Docker gets an error, and nothing falls back to plain text. F28
func TestNoKeyNoVolume(t *testing.T) {
	full(t)
	v := newVolume(t, "nokey")
	if err := os.Rename("/etc/voluks/master.key", "/etc/voluks/away.key"); err != nil {
		t.Fatal(err)
	}
	said, err := try("docker", "run", "--rm", "-v", v+":/d", image, "true")
	if e := os.Rename("/etc/voluks/away.key", "/etc/voluks/master.key"); e != nil {
		t.Fatal(e)
	}
	if err == nil || !strings.Contains(err.Error(), "master.key") {
		t.Errorf("without the key: %v %s", err, said)
	}
	if e := closed(v); e != nil {
		t.Error(e)
	}
	output(t, "docker", "run", "--rm", "-v", v+":/d", image, "true")
}
