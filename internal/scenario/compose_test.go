// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// project is a Compose file with one service on one volume, and a function that runs docker compose on it.
func project(t *testing.T, name string) (write func(size string), compose func(args ...string) (string, error)) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "compose.yaml")
	write = func(size string) {
		t.Helper()
		content := fmt.Sprintf(`name: %s
services:
  one:
    image: %s
    command: ["sleep", "1000"]
    init: true
    network_mode: none
    pull_policy: never
    volumes: ["data:/d"]
volumes:
  data:
    name: %s
    driver: voluks
    driver_opts: {size: %s}
`, name, image, name, size)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	compose = func(args ...string) (string, error) {
		// Both of its outputs: what it warns of counts.
		return try(append([]string{"sh", "-c", `exec docker compose --progress quiet -f "$0" "$@" 2>&1 </dev/null`, file}, args...)...)
	}
	return write, compose
}

// must is output for the functions of project.
func must(t *testing.T, out string, err error) string {
	t.Helper()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return out
}

// A stack goes up, down and up again on the same encrypted volume. Changed options of a volume that exists are never the end of its data: Compose
// ignores them or offers to make it anew, and nobody says yes. F10 F27
func TestComposeKeepsTheVolume(t *testing.T) {
	full(t)
	write, compose := project(t, "composed")
	run := func(args ...string) string { t.Helper(); out, err := compose(args...); return must(t, out, err) }
	write("32M")
	t.Cleanup(func() {
		compose("down", "--volumes", "--timeout", "0")
		eventually(t, func() error { return closed("composed") })
	})
	run("up", "-d")
	run("exec", "-T", "one", "sh", "-c", "echo kept > /d/x && sync")
	uuid := inspect(t, "composed").UUID
	run("down", "--timeout", "0")
	eventually(t, func() error { return closed("composed") })
	if got := mappings(t); len(got) > 0 {
		t.Errorf("mappings after down: %q", got)
	}

	write("64M")
	if out, err := compose("up", "-d"); err != nil {
		t.Logf("with other options Compose says: %s", out)
		write("32M")
		run("up", "-d")
	}
	if info := inspect(t, "composed"); info.UUID != uuid || info.Size != 32<<20 {
		t.Errorf("after other options it is %s with %d bytes, it was %s", info.UUID, info.Size, uuid)
	}
	if got := run("exec", "-T", "one", "cat", "/d/x"); got != "kept" {
		t.Errorf("the content is %q", got)
	}

	// The slip that everybody makes once.
	write("32M")
	run("down", "--volumes", "--timeout", "0")
	refused(t, "voluks", "volume", "inspect", "composed")
	output(t, "voluks", "volume", "undelete", "composed")
	run("up", "-d")
	if got := run("exec", "-T", "one", "cat", "/d/x"); got != "kept" {
		t.Errorf("after down --volumes and undelete the content is %q", got)
	}
	run("down", "--volumes", "--timeout", "0")
	if said := output(t, "voluks", "volume", "erase", "--force", uuid); !strings.Contains(said, "header and key slots: ") {
		t.Errorf("erase says: %s", said)
	}
	refused(t, "voluks", "volume", "undelete", uuid)
}

// A local volume has the name already: Compose starts the service on it in plain text, and the driver is not even asked. voluks names it. F28
func TestComposeOnALocalVolume(t *testing.T) {
	full(t)
	write, compose := project(t, "taken")
	write("32M")
	output(t, "docker", "volume", "create", "taken")
	t.Cleanup(func() {
		compose("down", "--timeout", "0")
		output(t, "docker", "volume", "rm", "taken")
	})
	out, err := compose("up", "-d")
	if err != nil {
		t.Fatalf("this Compose refuses, which is better than what docs/docker.md says: %s", out)
	}
	if said := output(t, "sh", "-c", "voluks volume ls 2>&1"); !strings.Contains(said, "taken") || !strings.Contains(said, "plaintext") {
		t.Errorf("volume ls says nothing of the local volume:\n%s", said)
	}
}
