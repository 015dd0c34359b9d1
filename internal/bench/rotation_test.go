// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A hundred volumes rotated, with both proofs, the record, the receipt and the header backup of each, against the shell loop that people have: luksAddKey
// and luksKillSlot. The loops are run over fewer containers, and their times scaled up: that of the default Argon2id slots would take a quarter of an hour.
func TestRotation(t *testing.T) {
	const (
		volumes  = 100
		fast     = 20 // containers with PBKDF2 slots
		slow     = 3  // containers with the default slots
		memoryMB = 64
	)
	n := newNode(t)
	n.configure(t, "overcommit = false", "overcommit = true") // a hundred images would not fit
	for i := range volumes {
		n.call(t, "Create", fmt.Sprintf(`{"Name":"v%d","Opts":{"size":"16M","alloc":"sparse"}}`, i))
	}
	loop := func(count int, kdf ...string) (images []string) {
		for i := range count {
			img := filepath.Join(n.dir, fmt.Sprintf("loop%d-%d.img", len(kdf), i))
			n.run(t, "truncate", "-s", "32M", img)
			n.run(t, append(append([]string{"cryptsetup", "luksFormat", "-q", "--key-file", n.key}, kdf...), img)...)
			images = append(images, img)
		}
		return images
	}
	pbkdf2 := []string{"--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}
	fastImages, slowImages := loop(fast, pbkdf2...), loop(slow)
	next := filepath.Join(n.dir, "next")
	if err := os.WriteFile(next, []byte(strings.Repeat("n", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	theirs := func(images []string, kdf ...string) time.Duration {
		took := timed(func() {
			n.run(t, append([]string{"sh", "-ec", `old=$1 new=$2 kdf=$3; shift 3
				for image; do
					cryptsetup luksAddKey -q $kdf --key-file "$old" "$image" "$new"
					cryptsetup luksKillSlot -q --key-file "$new" "$image" 0
				done`, "sh", n.key, next, strings.Join(kdf, " ")}, images...)...)
		})
		return took * volumes / time.Duration(len(images))
	}
	defaults := theirs(slowImages)
	cheap := theirs(fastImages, pbkdf2...)

	const group = "/sys/fs/cgroup/voluks-bench"
	if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(group)
	ours, out := n.inGroup(t, group, "--format", "json", "keyslot", "rotate", "--all")
	var result struct {
		Failed  int
		Volumes []struct {
			Receipt struct {
				Rotated []struct {
					ProvedBy []string `json:"proved_by"`
				}
				Backups struct{ Kept string }
			}
		}
	}
	if err := json.Unmarshal(out, &result); err != nil {
		t.Fatal(err)
	}
	for _, v := range result.Volumes {
		if len(v.Receipt.Rotated) != 1 || len(v.Receipt.Rotated[0].ProvedBy) != 2 || v.Receipt.Backups.Kept == "" {
			t.Fatalf("receipt %+v", v.Receipt)
		}
	}
	if result.Failed > 0 || len(result.Volumes) != volumes {
		t.Fatalf("%d of %d volumes failed", result.Failed, len(result.Volumes))
	}
	report(t, fmt.Sprintf("rotating %d volumes, proofs and backups included / luksAddKey and luksKillSlot with defaults (%d containers, scaled)", volumes, slow), ours, defaults, 0.1)
	report(t, fmt.Sprintf("rotating %d volumes, proofs and backups included / the same with PBKDF2-1000 (%d containers, scaled)", volumes, fast), ours, cheap, 2.5)
	peak := number(t, filepath.Join(group, "memory.peak"))
	t.Logf("FIGURE rotating %d volumes: %d MB at the peak, all processes and their page cache (at most %d)", volumes, peak>>20, memoryMB)
	if peak > memoryMB<<20 {
		t.Errorf("%d bytes of memory at the peak", peak)
	}
}

// configure replaces a line of the configuration. Operations of the agent read it anew.
func (n *node) configure(t *testing.T, line, by string) {
	t.Helper()
	path := filepath.Join(n.root, "etc/voluks/config.toml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), line, by, 1)
	if changed == string(text) {
		t.Fatalf("%q is not in\n%s", line, text)
	}
	if err := os.WriteFile(path, []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
}

// inGroup runs voluks in a control group and returns how long it took, and what it printed.
func (n *node) inGroup(t *testing.T, group string, args ...string) (time.Duration, []byte) {
	t.Helper()
	dir, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, n.binary, append([]string{"--root", n.root}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	cmd.Stderr = os.Stderr
	var out []byte
	took := timed(func() { out, err = cmd.Output() })
	if err != nil {
		t.Fatalf("voluks %s: %v", strings.Join(args, " "), err)
	}
	return took, out
}

func number(t *testing.T, path string) int64 {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	v, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
