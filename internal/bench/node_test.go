// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/testenv"
)

// node is a host with an agent of its own under a temporary root on ext4, and a client of its plugin socket.
type node struct {
	root, dir, mnt, key string
	binary              string
	agent               *exec.Cmd
	client              *http.Client
}

// newNode starts the voluks binary that VOLUKS_BINARY names. Its files lie on an ext4 of their own on the first extra disk.
func newNode(t *testing.T) *node {
	t.Helper()
	testenv.Guest(t)
	binary := os.Getenv("VOLUKS_BINARY")
	if binary == "" {
		testenv.Missing(t, "bench", "no VOLUKS_BINARY: run make bench")
	}
	disk := testenv.Disk(t, 0, 1<<30)
	n := &node{dir: t.TempDir(), binary: binary}
	n.run(t, "mkfs.ext4", "-q", "-F", disk)
	n.run(t, "mount", disk, n.dir)
	t.Cleanup(func() { n.run(t, "umount", n.dir) })
	n.root, n.mnt, n.key = filepath.Join(n.dir, "root"), filepath.Join(n.dir, "mnt"), filepath.Join(n.dir, "key")
	for _, dir := range []string{n.root, n.mnt} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(n.key, bytes.Repeat([]byte("k"), 32), 0o600); err != nil {
		t.Fatal(err)
	}
	n.run(t, binary, "--root", n.root, "init", "--recovery-identity-file", filepath.Join(n.dir, "identity"))

	n.agent = exec.Command(binary, "--root", n.root, "serve")
	n.agent.Stderr = os.Stderr
	if err := n.agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.agent.Process.Signal(os.Interrupt); err != nil {
			t.Error(err)
		}
		if err := n.agent.Wait(); err != nil {
			t.Error(err)
		}
	})
	socket := filepath.Join(n.root, "run/docker/plugins/voluks.sock")
	n.client = clientOf(socket)
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return n
		}
		if time.Now().After(until) {
			t.Fatal("the agent has made no socket")
		}
	}
}

func clientOf(socket string) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
}

// call asks the plugin and fails the test if it answers with an error.
func (n *node) call(t *testing.T, method, body string) {
	t.Helper()
	reply, err := n.client.Post("http://voluks/VolumeDriver."+method, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer reply.Body.Close()
	said, err := io.ReadAll(reply.Body)
	if err != nil || reply.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %v %s", method, body, err, said)
	}
}

// run runs a tool and returns what it printed.
func (n *node) run(t *testing.T, args ...string) string { t.Helper(); return sh(t, args...) }

// shellImage makes an image the way a shell script would, with a file system in it.
func (n *node) shellImage(t *testing.T, name string, size int64, format ...string) string {
	t.Helper()
	img := filepath.Join(n.dir, name)
	n.run(t, "truncate", "-s", fmt.Sprint(size), img)
	n.run(t, append(append([]string{"cryptsetup", "luksFormat", "-q", "--key-file", n.key}, format...), img)...)
	n.run(t, "cryptsetup", "open", "--key-file", n.key, img, "bench")
	n.run(t, "mkfs.ext4", "-q", "/dev/mapper/bench")
	n.run(t, "cryptsetup", "close", "bench")
	return img
}

func (n *node) mountpoint(name string) string {
	return filepath.Join(n.root, "var/lib/voluks/mnt", name)
}

// image is the file with the ciphertext of a volume.
func (n *node) image(name string) string {
	return filepath.Join(n.root, "var/lib/voluks/volumes", name, "image")
}

func (n *node) uuid(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(n.run(t, "cryptsetup", "luksUUID", n.image(name)))
}

// addSlot lets cryptsetup open the volume with the benchmark's own key, by the recovery identity: the way an owner would.
func (n *node) addSlot(t *testing.T, name, image string) {
	t.Helper()
	n.run(t, "sh", "-ec", `cryptsetup luksDump --dump-json-metadata "$1" |
		jq -j '.tokens[] | select(.type == "voluks-recovery") | .age' | age -d -i "$2" > "$3"
		cryptsetup luksAddKey -q --key-file "$3" --pbkdf pbkdf2 --pbkdf-force-iterations 1000 "$1" "$4"`,
		"sh", image, filepath.Join(n.dir, "identity"), filepath.Join(n.dir, "recovered"), n.key)
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}
