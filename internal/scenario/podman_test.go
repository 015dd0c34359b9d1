// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"os"
	"strings"
	"testing"
)

// Podman is a second client of the same socket.
func TestPodman(t *testing.T) {
	full(t)
	const conf = "/etc/containers/containers.conf"
	if err := os.MkdirAll("/etc/containers", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, []byte("[engine]\nvolume_plugin_timeout = 120\n[engine.volume_plugins]\nvoluks = \"/run/docker/plugins/voluks.sock\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(conf); err != nil {
			t.Error(err)
		}
	})

	output(t, "podman", "volume", "create", "--driver", "voluks", "-o", "size=32M", "pod")
	podman := []string{"podman", "run", "--rm", "--network", "none", "--pull", "never", "--volume", "pod:/d", image}
	output(t, append(podman, "sh", "-c", "echo by podman > /d/x")...)
	eventually(t, func() error { return closed("pod") })
	if got := output(t, append(podman, "cat", "/d/x")...); got != "by podman" {
		t.Errorf("the content is %q", got)
	}

	// The same volume for Docker, which never made it.
	if got := output(t, "docker", "run", "--rm", "-v", "pod:/d", "--volume-driver", "voluks", image, "cat", "/d/x"); got != "by podman" {
		t.Errorf("through Docker: %q", got)
	}
	eventually(t, func() error { return closed("pod") })

	output(t, "podman", "volume", "rm", "pod")
	if out := output(t, "voluks", "volume", "ls"); strings.Contains(out, "pod") {
		t.Errorf("still listed: %s", out)
	}

	// prune removes through the plugin too, so what it removes must be a tombstone and not gone.
	output(t, "podman", "volume", "create", "--driver", "voluks", "-o", "size=32M", "pruned")
	uuid := inspect(t, "pruned").UUID
	output(t, "podman", "volume", "prune", "--force")
	if _, err := os.Stat("/var/lib/voluks/removed/" + uuid); err != nil {
		t.Errorf("no tombstone of the pruned volume: %v", err)
	}

	// With the plugin gone podman forgets the volume, and the plugin keeps it.
	output(t, "podman", "volume", "create", "--driver", "voluks", "-o", "size=32M", "forgotten")
	t.Cleanup(func() {
		bothBack(t)
		output(t, "voluks", "volume", "rm", "--force", "forgotten")
	})
	output(t, "systemctl", "stop", "voluks.socket", "voluks.service")
	refused(t, "podman", "volume", "ls")
	if out, err := try("podman", "volume", "rm", "forgotten"); err != nil {
		t.Logf("podman volume rm without the plugin: %v %s", err, out)
	}
	if info := inspect(t, "forgotten"); info.State != "ready" {
		t.Errorf("the volume that podman forgot is %s", info.State)
	}
}
