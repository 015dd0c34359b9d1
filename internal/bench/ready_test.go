// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
)

// From the start of the agent to READY=1, on a node that knows 1,000 volumes. It runs on this machine and not in the guest, whose starts of processes are slow:
// the agent gets a root of its own with nothing below it but the configuration and the records, so no storage is touched.
func TestReady(t *testing.T) {
	binary := os.Getenv("VOLUKS_BINARY")
	if binary == "" {
		testenv.Missing(t, "bench", "no VOLUKS_BINARY: run make bench")
	}
	const known, rounds, limit = 1000, 9, 200 * time.Millisecond
	root := t.TempDir()
	voluks := func(args ...string) []byte {
		t.Helper()
		var stderr bytes.Buffer
		cmd := exec.Command(binary, append([]string{"--root", root}, args...)...)
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("voluks %s: %v\n%s", strings.Join(args, " "), err, stderr.Bytes())
		}
		return out
	}
	voluks("init", "--recovery-identity-file", filepath.Join(t.TempDir(), "identity"))
	writeRecords(t, filepath.Join(root, "var/lib/voluks/volumes"), known)

	var list struct {
		Volumes []struct{ Name, State string } `json:"volumes"`
	}
	if err := json.Unmarshal(voluks("--format", "json", "volume", "ls"), &list); err != nil {
		t.Fatal(err)
	}
	ready := 0
	for _, v := range list.Volumes {
		if v.State == string(volume.StateReady) {
			ready++
		}
	}
	if ready != known {
		t.Fatalf("the node knows %d volumes that are ready, not %d", ready, known)
	}

	var times, answers []time.Duration
	for range rounds + 1 {
		ready, answered := startAgent(t, binary, root)
		times, answers = append(times, ready), append(answers, answered)
	}
	took, answered := median(times[1:]), median(answers[1:]) // the first warms the caches
	t.Logf("FIGURE agent ready (READY=1) with %d known volumes: %v after exec (at most %v); the first call is answered %v after exec",
		known, took.Round(time.Millisecond), limit, answered.Round(time.Millisecond))
	if took > limit {
		t.Errorf("the agent is ready after %v", took)
	}
}

// writeRecords makes the records of volumes as the agent writes them.
func writeRecords(t *testing.T, dir string, n int) {
	t.Helper()
	for i := range n {
		name := fmt.Sprintf("stack_volume%d", i)
		spec, err := volume.ParseOptions(name, map[string]string{"size": "10G"}, volume.Defaults{Size: 10 << 30, FS: "ext4"})
		if err != nil {
			t.Fatal(err)
		}
		record, err := json.Marshal(map[string]any{
			"v": 1, "name": name, "uuid": uuid.NewString(), "fs_uuid": uuid.NewString(), "state": volume.StateReady, "spec": spec,
			"sector_size": 4096, "created": time.Now().UTC(),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name, "record.json"), record, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// startAgent starts the agent as systemd does, waits for READY=1 and for the answer to a call of Docker, ends it, and returns how long both took.
func startAgent(t *testing.T, binary, root string) (ready, answered time.Duration) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ready") // short: the path of a socket has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	var said bytes.Buffer
	cmd := exec.Command(binary, "--root", root, "serve")
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "notify"))
	cmd.Stderr = &said
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, said.String())
		}
	}()
	if err := socket.SetReadDeadline(began.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for {
		message := make([]byte, 4096)
		n, err := socket.Read(message)
		if err != nil {
			t.Fatalf("no READY=1: %v\n%s", err, said.String())
		}
		if strings.Contains(string(message[:n]), "READY=1") {
			ready = time.Since(began)
			break
		}
	}
	n := &node{client: clientOf(filepath.Join(root, "run/docker/plugins/voluks.sock"))}
	n.call(t, "Get", `{"Name":"stack_volume7"}`)
	return ready, time.Since(began)
}
