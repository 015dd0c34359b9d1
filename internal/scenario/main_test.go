// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
)

const (
	image   = "voluks-test/busybox"
	patient = 60 * time.Second // how long a condition may take to come true; processes are slow to start in a guest
)

// full ends the test outside the full guest, and in the runs that are for the tests of a power cut alone.
func full(t *testing.T) { t.Helper(); phase(t, "") }

// phase ends the test unless the runner is on that side of the power cut ("before", "after"), or has none in mind ("").
func phase(t *testing.T, want string) {
	t.Helper()
	if os.Getenv(testenv.VarGuest) != "full" {
		testenv.Missing(t, "full", "not in the full guest: run scripts/test-full")
	}
	if got := os.Getenv("VOLUKS_PHASE"); got != want {
		t.Skipf("for the phase %q of scripts/test-full, this is %q", want, got)
	}
}

// output runs a command and returns what it printed; a failure ends the test.
func output(t *testing.T, args ...string) string {
	t.Helper()
	out, err := try(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// try runs a command and returns its trimmed standard output. The error has the command and its standard error.
func try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	out := strings.TrimSpace(stdout.String())
	if err != nil {
		return out, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}

// refused runs a command that must fail and returns the error, which holds what it said.
func refused(t *testing.T, args ...string) string {
	t.Helper()
	out, err := try(args...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("%s: not refused (%v): %s", strings.Join(args, " "), err, out)
	}
	return err.Error()
}

// eventually waits for a condition; the last complaint of check is the failure.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patient)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %v", patient, err)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// newVolume makes an encrypted volume through Docker and removes it, and what it left, at the end.
func newVolume(t *testing.T, name string, options ...string) string {
	t.Helper()
	args := []string{"docker", "volume", "create", "-d", "voluks", "-o", "size=32M"}
	for _, o := range options {
		args = append(args, "-o", o)
	}
	output(t, append(args, name)...)
	t.Cleanup(func() {
		eventually(t, func() error {
			if _, err := try("docker", "volume", "rm", name); err != nil {
				return err
			}
			return closed(name)
		})
	})
	return name
}

// inspect is what the CLI says about a volume.
func inspect(t *testing.T, name string) volume.Info {
	t.Helper()
	info, err := look(name)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func look(name string) (info volume.Info, err error) {
	out, err := try("voluks", "--format", "json", "volume", "inspect", name)
	if err != nil {
		return info, err
	}
	// One volume, or a list of one: the tests care for what is in it.
	if err := json.Unmarshal([]byte(out), &info); err == nil {
		return info, nil
	}
	var list []volume.Info
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 {
		return info, fmt.Errorf("inspect %s: %v: %s", name, err, out)
	}
	return list[0], nil
}

// holders are the ids of those who use the volume.
func holders(t *testing.T, name string) []string {
	t.Helper()
	var ids []string
	for _, h := range inspect(t, name).Holders {
		ids = append(ids, h.ID)
	}
	slices.Sort(ids)
	return ids
}

// closed tells whether nothing of the volume is in the kernel, which is asked itself.
func closed(name string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if strings.Contains(string(mounts), "/var/lib/voluks/mnt/"+name+" ") {
		return fmt.Errorf("%s is still mounted", name)
	}
	loops, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return err
	}
	for _, file := range loops {
		if backing, _ := os.ReadFile(file); strings.Contains(string(backing), "/volumes/"+name+"/") {
			return fmt.Errorf("%s is still attached: %s", name, file)
		}
	}
	return nil
}

// mappings are the names of the dm-crypt devices of voluks.
func mappings(t *testing.T) []string {
	t.Helper()
	var names []string
	for line := range strings.Lines(output(t, "dmsetup", "ls", "--target", "crypt")) {
		if name := strings.Fields(line)[0]; strings.HasPrefix(name, "voluks-") {
			names = append(names, name)
		}
	}
	return names
}

// start runs a container in the background until the end of the test.
func start(t *testing.T, name string, args ...string) {
	t.Helper()
	output(t, append([]string{"docker", "run", "-d", "--init", "--network", "none", "--name", name}, args...)...)
	t.Cleanup(func() { remove(t, name) })
}

// remove ends a container; one that is gone already is fine.
func remove(t *testing.T, name string) {
	t.Helper()
	if out, err := try("docker", "rm", "-f", name); err != nil && !strings.Contains(err.Error(), "No such container") {
		t.Errorf("%v: %s", err, out)
	}
}

// running tells whether the container runs.
func running(name string) error {
	out, err := try("docker", "inspect", "-f", "{{.State.Running}}", name)
	if err == nil && out != "true" {
		return fmt.Errorf("container %s does not run", name)
	}
	return err
}

// mainPID is the main process of a unit, 0 if it has none.
func mainPID(t *testing.T, unit string) string {
	t.Helper()
	return output(t, "systemctl", "show", "-P", "MainPID", unit)
}

// dockerBack waits until Docker answers.
func dockerBack(t *testing.T) {
	t.Helper()
	eventually(t, func() error {
		_, err := try("docker", "version", "-f", "{{.Server.Version}}")
		return err
	})
}

// bothBack sees to it that the next test finds socket, agent and Docker running.
func bothBack(t *testing.T) {
	t.Helper()
	output(t, "systemctl", "reset-failed")
	output(t, "systemctl", "start", "voluks.socket", "voluks.service", "docker.service")
	dockerBack(t)
}
