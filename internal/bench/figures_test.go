// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
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

// Sequential direct I/O on the mapping of voluks, against a mapping of cryptsetup over the same image. Both are open at once, over a loop device each, and
// take turns every few megabytes: whatever else the machine does meets both alike, and the medians are of many short times that lie side by side.
func TestThroughput(t *testing.T) {
	const (
		length = 96 << 20
		piece  = 4 << 20
		passes = 6
	)
	n := newNode(t)
	n.call(t, "Create", `{"Name":"io","Opts":{"size":"160M"}}`)
	uuid := n.uuid(t, "io")
	image := n.image("io")
	n.addSlot(t, "io", image)
	n.call(t, "Mount", `{"Name":"io","ID":"1"}`)
	n.run(t, "umount", n.mountpoint("io")) // the mapping stays, and nothing but us writes to it
	loop := strings.TrimSpace(n.run(t, "losetup", "--show", "--find", "--direct-io=on", "--sector-size", "4096", image))
	n.run(t, "cryptsetup", "open", "--key-file", n.key, loop, "bench")

	devices := [2]string{"/dev/mapper/voluks-" + uuid, "/dev/mapper/bench"}
	var files [2]*sys.DirectFile
	for i, dev := range devices {
		f, err := sys.OpenDirect(dev, true)
		if err != nil {
			t.Fatal(err)
		}
		files[i] = f
	}
	content := make([]byte, piece)
	var reads, writes [2][]time.Duration // voluks or cryptsetup
	for pass := range passes + 1 {
		for off := int64(0); off < length; off += piece {
			for turn := range 2 {
				i := (pass + int(off/piece) + turn) % 2 // who begins changes
				var err, err2 error
				read := timed(func() { _, err = files[i].ReadAt(content, off) })
				// What was read is written back, so that the file system stays one.
				write := timed(func() { _, err2 = files[i].WriteAt(content, off); err2 = errors.Join(err2, files[i].Sync()) })
				if err := errors.Join(err, err2); err != nil {
					t.Fatal(err)
				}
				if pass > 0 {
					reads[i], writes[i] = append(reads[i], read), append(writes[i], write)
				}
			}
		}
	}
	for _, f := range files {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	n.run(t, "cryptsetup", "close", "bench")
	n.run(t, "losetup", "-d", loop)
	n.run(t, "dmsetup", "remove", "voluks-"+uuid)
	n.call(t, "Unmount", `{"Name":"io","ID":"1"}`)
	// Throughput is the inverse of time: at least 0.95 of the speed is at most 1/0.95 of the time.
	report(t, "sequential direct read, time / the same with cryptsetup's mapping", median(reads[0]), median(reads[1]), 1/0.95)
	report(t, "sequential direct write, time / the same with cryptsetup's mapping", median(writes[0]), median(writes[1]), 1/0.95)
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

func report(t *testing.T, what string, ours, theirs time.Duration, limit float64) {
	t.Helper()
	ratio := ours.Seconds() / theirs.Seconds()
	t.Logf("FIGURE %s: %.2f (at most %.2f): %v against %v", what, ratio, limit, round(ours), round(theirs))
	if ratio > limit {
		t.Errorf("%s: %.2f is over %.2f", what, ratio, limit)
	}
}

// round leaves three digits or so.
func round(d time.Duration) time.Duration {
	if d < 100*time.Millisecond {
		return d.Round(10 * time.Microsecond)
	}
	return d.Round(time.Millisecond)
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

// A mounted volume grows, against the tools that do the same to an image that a shell script has mounted.
func TestGrow(t *testing.T) {
	n := newNode(t)
	n.call(t, "Create", `{"Name":"g","Opts":{"size":"64M"}}`)
	n.call(t, "Mount", `{"Name":"g","ID":"1"}`)
	image := n.shellImage(t, "g.img", 80<<20, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
	loop := strings.TrimSpace(n.run(t, "losetup", "--show", "--find", "--direct-io=on", "--sector-size", "4096", image))
	n.run(t, "cryptsetup", "open", "--key-file", n.key, loop, "bench")
	n.run(t, "mount", "/dev/mapper/bench", n.mnt)
	size := [2]int{64, 80} // MiB
	ours := func() {
		size[0] += 4
		n.run(t, os.Getenv("VOLUKS_BINARY"), "--root", n.root, "volume", "grow", "g", fmt.Sprintf("%dM", size[0]))
	}
	theirs := func() {
		size[1] += 4
		n.run(t, "fallocate", "--length", fmt.Sprintf("%dM", size[1]), image)
		n.run(t, "losetup", "--set-capacity", loop)
		n.run(t, "cryptsetup", "resize", "--key-file", n.key, "bench")
		n.run(t, "resize2fs", "/dev/mapper/bench")
	}
	times := sideBySide(7, pair{ours, func() {}}, pair{theirs, func() {}})
	n.run(t, "umount", n.mnt)
	n.run(t, "cryptsetup", "close", "bench")
	n.run(t, "losetup", "-d", loop)
	n.call(t, "Unmount", `{"Name":"g","ID":"1"}`)
	report(t, "grow of a mounted volume / fallocate, losetup, cryptsetup resize, resize2fs", times[0], times[1], 1.3)
}

// A volume mounts as fast among a thousand as among ten.
func TestMountAmongMany(t *testing.T) {
	n := newNode(t)
	n.call(t, "Create", `{"Name":"m","Opts":{"size":"64M"}}`)
	mount := func() time.Duration {
		return sideBySide(21, pair{ // the agent looks at all of them meanwhile, now and then
			func() { n.call(t, "Mount", `{"Name":"m","ID":"1"}`) }, func() { n.call(t, "Unmount", `{"Name":"m","ID":"1"}`) },
		})[0]
	}
	volumes := filepath.Join(n.root, "var/lib/voluks/volumes")
	writeRecords(t, volumes, 9)
	few := mount()
	writeRecords(t, volumes, 999)
	report(t, "mount among 1,000 volumes / among 10", mount(), few, 1.1)
}

// What listing a thousand volumes takes, for a person and for Docker. It runs on this machine, like TestReady.
func TestListMany(t *testing.T) {
	binary := os.Getenv("VOLUKS_BINARY")
	if binary == "" {
		testenv.Missing(t, "bench", "no VOLUKS_BINARY: run make bench")
	}
	const limit = 100 * time.Millisecond
	root := t.TempDir()
	writeRecords(t, filepath.Join(root, "var/lib/voluks/volumes"), 1000)
	ls := func() {
		if out, err := exec.Command(binary, "--root", root, "volume", "ls").CombinedOutput(); err != nil || strings.Count(string(out), "stack_volume") != 1000 {
			t.Fatalf("%v\n%.500s", err, out)
		}
	}
	m := volume.New(volume.Options{Paths: config.PathsUnder(root), Storage: volume.NewStorage(volume.StorageOptions{})})
	list := func() { // what the plugin does for Docker, without the socket
		if infos, err := m.List(t.Context()); err != nil || len(infos) != 1000 {
			t.Fatal(len(infos), err)
		}
	}
	times := []time.Duration{timed(ls), timed(list)}
	for range 15 { // the best of them: others work on this machine too
		times[0], times[1] = min(times[0], timed(ls)), min(times[1], timed(list))
	}
	for i, what := range []string{"voluks volume ls", "the plugin's List"} {
		t.Logf("FIGURE %s, 1,000 volumes: %v (at most %v)", what, times[i].Round(time.Millisecond), limit)
		if times[i] > limit {
			t.Errorf("%s takes %v", what, times[i])
		}
	}
}
