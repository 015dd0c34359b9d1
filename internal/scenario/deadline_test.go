// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/sys"
)

// occupy takes the lock of a volume, as an operation does that does not end, until release.
func occupy(t *testing.T, name string) (release func()) {
	t.Helper()
	path := config.DefaultPaths().Lock(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { return sys.TryLock(f) })
	t.Cleanup(func() { f.Close() })
	return func() { f.Close() }
}

// Docker gives a Mount up after 120 s and would never unmount what comes later. So voluks answers before, with the reason, and undoes everything. F13
//
// The test waits for 95 s, in which the other parallel ones run.
func TestMountEndsBeforeDockerGivesUp(t *testing.T) {
	full(t)
	t.Parallel()
	v := newVolume(t, "slow")
	release := occupy(t, v)
	began := time.Now()
	said := refused(t, "docker", "run", "--rm", "--network", "none", "-v", v+":/d", image, "true")
	if took := time.Since(began); took > 115*time.Second {
		t.Errorf("the answer took %v", took)
	}
	if !strings.Contains(said, "another operation has the lock") {
		t.Errorf("Docker does not say why: %s", said)
	}
	release()
	if ids := holders(t, v); len(ids) != 0 {
		t.Errorf("holders of a volume that was never mounted: %q", ids)
	}
	if err := closed(v); err != nil {
		t.Error(err)
	}
	output(t, "docker", "run", "--rm", "--network", "none", "-v", v+":/d", image, "sh", "-c", "echo there > /d/x")
}

// While the agent looks through what a crash left, calls wait. An error at that moment would leave the containers of a starting Docker down for ever. F23
func TestCallsWaitWhileTheAgentReconciles(t *testing.T) {
	full(t)
	v := newVolume(t, "patient")
	const leftover = "leftover" // a bare mountpoint without a volume, which the agent clears at its start
	if err := os.MkdirAll(config.DefaultPaths().Mount(leftover), 0o700); err != nil {
		t.Fatal(err)
	}
	output(t, "systemctl", "stop", "voluks.service")
	release := occupy(t, leftover)
	done := make(chan error, 1)
	go func() {
		_, err := try("docker", "run", "--rm", "--network", "none", "-v", v+":/d", image, "sh", "-c", "echo there > /d/x")
		done <- err
	}()
	eventually(t, func() error {
		if got := output(t, "systemctl", "show", "-P", "StatusText", "voluks.service"); got != "looking through the volumes" {
			return fmt.Errorf("the agent says %q", got)
		}
		return nil
	})
	if _, err := try("curl", "-sS", "--max-time", "3", "--unix-socket", config.DefaultPaths().DockerSocket(), "-X", "POST", "http://x/VolumeDriver.List"); err == nil ||
		!strings.Contains(err.Error(), "timed out") {
		t.Errorf("a call meanwhile was answered: %v", err)
	}
	select {
	case err := <-done:
		t.Fatalf("the container did not wait: %v", err)
	default:
	}
	release()
	if err := <-done; err != nil {
		t.Errorf("the call that waited: %v", err)
	}
	eventually(t, func() error {
		if _, err := os.Stat(config.DefaultPaths().Mount(leftover)); err == nil {
			return fmt.Errorf("the leftover is still there")
		}
		return nil
	})
}
