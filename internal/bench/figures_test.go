// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Mount through the plugin, against cryptsetup with the same kind of slot and with its default one.
func TestMount(t *testing.T) {
	n := newNode(t)
	n.call(t, "Create", `{"Name":"m","Opts":{"size":"64M"}}`)
	image := n.shellImage(t, "m.img", 80<<20, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
	slow := n.shellImage(t, "slow.img", 80<<20)

	ours := func() {
		n.call(t, "Mount", `{"Name":"m","ID":"1"}`)
	}
	undoOurs := func() { n.call(t, "Unmount", `{"Name":"m","ID":"1"}`) }
	theirs := func(img string) func() {
		return func() {
			n.run(t, "cryptsetup", "open", "--key-file", n.key, img, "bench")
			n.run(t, "mount", "/dev/mapper/bench", n.mnt)
		}
	}
	undoTheirs := func() {
		n.run(t, "umount", n.mnt)
		n.run(t, "cryptsetup", "close", "bench")
	}
	times := sideBySide(9, pair{ours, undoOurs}, pair{theirs(image), undoTheirs})
	report(t, "mount, through the plugin / cryptsetup open of a PBKDF2-1000 slot + mount", times[0], times[1], 1.3)
	times = sideBySide(3, pair{ours, undoOurs}, pair{theirs(slow), undoTheirs})
	report(t, "mount, through the plugin / cryptsetup open of a default (Argon2id) slot + mount", times[0], times[1], 1.0/6)
}

// From nothing to a mounted volume, against a shell that uses cryptsetup's defaults.
func TestCreate(t *testing.T) {
	n := newNode(t)
	count := 0
	ours := func() {
		count++
		name := fmt.Sprintf("c%d", count)
		n.call(t, "Create", `{"Name":"`+name+`","Opts":{"size":"64M"}}`)
		n.call(t, "Mount", `{"Name":"`+name+`","ID":"1"}`)
	}
	undoOurs := func() {
		name := fmt.Sprintf("c%d", count)
		n.call(t, "Unmount", `{"Name":"`+name+`","ID":"1"}`)
		n.call(t, "Remove", `{"Name":"`+name+`"}`)
	}
	theirs := func() {
		img := filepath.Join(n.dir, "shell.img")
		n.run(t, "truncate", "-s", "80M", img)
		n.run(t, "cryptsetup", "luksFormat", "-q", "--key-file", n.key, img)
		n.run(t, "cryptsetup", "open", "--key-file", n.key, img, "bench")
		n.run(t, "mkfs.ext4", "-q", "/dev/mapper/bench")
		n.run(t, "mount", "/dev/mapper/bench", n.mnt)
	}
	undoTheirs := func() {
		n.run(t, "umount", n.mnt)
		n.run(t, "cryptsetup", "close", "bench")
		n.run(t, "rm", filepath.Join(n.dir, "shell.img"))
	}
	times := sideBySide(3, pair{ours, undoOurs}, pair{theirs, undoTheirs})
	report(t, "create to first mount / truncate, luksFormat, open, mkfs, mount", times[0], times[1], 0.5)
}

// Sequential direct I/O on the mapping of voluks, against a mapping of cryptsetup over the same image.
func TestThroughput(t *testing.T) {
	n := newNode(t)
	n.call(t, "Create", `{"Name":"io","Opts":{"size":"160M"}}`)
	uuid := n.uuid(t, "io")
	image := n.image("io")
	n.addSlot(t, "io", image)

	content := make([]byte, 96<<20) // what was read is written back, so that the file system stays one
	read := func(dev string) { n.direct(t, dev, content, false) }
	write := func(dev string) { n.direct(t, dev, content, true) }

	var best [2][2]time.Duration // voluks or cryptsetup; read or write
	for range 6 {
		n.call(t, "Mount", `{"Name":"io","ID":"1"}`)
		n.run(t, "umount", n.mountpoint("io")) // the mapping stays, and nothing but us writes to it
		ours := "/dev/mapper/voluks-" + uuid
		keepBest(&best[0][0], timed(func() { read(ours) }))
		keepBest(&best[0][1], timed(func() { write(ours) }))
		n.run(t, "dmsetup", "remove", "voluks-"+uuid)

		loop := strings.TrimSpace(n.run(t, "losetup", "--show", "--find", "--direct-io=on", "--sector-size", "4096", image))
		n.run(t, "cryptsetup", "open", "--key-file", n.key, loop, "bench")
		keepBest(&best[1][0], timed(func() { read("/dev/mapper/bench") }))
		keepBest(&best[1][1], timed(func() { write("/dev/mapper/bench") }))
		n.run(t, "cryptsetup", "close", "bench")
		n.run(t, "losetup", "-d", loop)
		n.call(t, "Unmount", `{"Name":"io","ID":"1"}`)
	}
	// Throughput is the inverse of time: at least 0.95 of the speed is at most 1/0.95 of the time.
	report(t, "sequential direct read, time / the same with cryptsetup's mapping", best[0][0], best[1][0], 1/0.95)
	report(t, "sequential direct write, time / the same with cryptsetup's mapping", best[0][1], best[1][1], 1/0.95)
}

// The agent at rest.
func TestIdleMemory(t *testing.T) {
	n := newNode(t)
	for i := range 10 {
		n.call(t, "Create", fmt.Sprintf(`{"Name":"v%d","Opts":{"size":"16M"}}`, i))
	}
	n.call(t, "List", `{}`)
	kib := n.residentKiB(t)
	t.Logf("FIGURE agent idle: %d MB resident (at most 30)", kib>>10)
	if kib > 30<<10 {
		t.Errorf("the idle agent has %d KiB resident", kib)
	}
}

type pair struct{ do, undo func() }

// sideBySide alternates the two n times and returns the median time of each. One more round before it warms the caches.
func sideBySide(n int, pairs ...pair) []time.Duration {
	all := make([][]time.Duration, len(pairs))
	for round := range n + 1 {
		for i, p := range pairs {
			took := timed(p.do)
			p.undo()
			if round > 0 {
				all[i] = append(all[i], took)
			}
		}
	}
	medians := make([]time.Duration, len(pairs))
	for i, times := range all {
		medians[i] = median(times)
	}
	return medians
}

func timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func keepBest(best *time.Duration, d time.Duration) {
	if *best == 0 || d < *best {
		*best = d
	}
}

func report(t *testing.T, what string, ours, theirs time.Duration, limit float64) {
	t.Helper()
	ratio := ours.Seconds() / theirs.Seconds()
	t.Logf("FIGURE %s: %.2f (at most %.2f): %v against %v", what, ratio, limit, ours.Round(time.Millisecond), theirs.Round(time.Millisecond))
	if ratio > limit {
		t.Errorf("%s: %.2f is over %.2f", what, ratio, limit)
	}
}

// residentKiB is the VmRSS of the agent.
func (n *node) residentKiB(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", n.agent.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return kib
		}
	}
	t.Fatal("no VmRSS")
	return 0
}

// deadline bounds whatever the benchmarks start.
func deadline() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 5*time.Minute)
}
