// SPDX-License-Identifier: Apache-2.0

package copytree

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
)

func TestMain(m *testing.M) {
	if os.Getenv("VOLUKS_GUEST") != "" {
		attribute = "trusted.comment"
	}
	testenv.Main(m)
}

// Power cuts at random instants of three passes over a source that changes between them. After each the file system of the copy is sound, another pass goes on
// and is verified; and once a pass was verified all of it is there without another one.
func TestPowerCuts(t *testing.T) {
	testenv.Guest(t)
	random, seed := testenv.Random(t)

	const size, block = 24 << 20, 4096 // the sectors of a volume; ext4 does not survive torn blocks
	blank := filepath.Join(t.TempDir(), "blank")
	must(t, os.WriteFile(blank, make([]byte, size), 0o600))
	mkfs := exec.CommandContext(t.Context(), "mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-N", "512", "-J", "size=4", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", blank)
	if out, err := mkfs.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	base, err := os.ReadFile(blank)
	must(t, err)
	r := testenv.Record(t, "copytree-recorded", bytes.Clone(base)) // which it keeps

	disk := filepath.Join(t.TempDir(), "disk")
	must(t, os.Mkdir(disk, 0o700))
	mount := func(dev string) string {
		t.Helper()
		must(t, syscall.Mount(dev, disk, "ext4", 0, ""))
		dst := filepath.Join(disk, "data")
		if err := os.Mkdir(dst, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
		return dst
	}
	src := tree(t)
	p := func(name string) string { return filepath.Join(src, name) }
	for i := range 60 {
		must(t, os.WriteFile(p(fmt.Sprintf("sub/%d", i)), bytes.Repeat([]byte{byte(i)}, 1+random.IntN(60_000)), 0o600))
	}
	dst := mount(r.Path)
	_, err = Copy(t.Context(), src, dst, Options{Live: true})
	must(t, err)
	r.Mark(t, "live")
	for i := range 30 {
		must(t, os.WriteFile(p(fmt.Sprintf("sub/%d", 2*i)), bytes.Repeat([]byte{byte(i)}, 1+random.IntN(60_000)), 0o600))
	}
	must(t, os.RemoveAll(p("sub/deep")))
	must(t, os.Rename(p("plain"), p("sub/plain")))
	m, err := Copy(t.Context(), src, dst, Options{})
	must(t, err)
	must(t, Verify(t.Context(), m, src, dst, nil))
	r.Mark(t, "verified")
	must(t, syscall.Unmount(disk, 0))
	var writes []testenv.Logged
	r.Replay(t, func(disk []byte, w testenv.Write) {
		writes = append(writes, testenv.Logged{Write: w, Content: bytes.Clone(disk[w.From:w.To])})
	})

	outcome := map[string]int{}
	for i := range testenv.PowerCuts(t, 30) {
		at := random.IntN(len(writes))
		note := writes[at].Note
		outcome[note]++
		failed := func(err error) {
			t.Helper()
			t.Errorf("seed %d, cut %d, in entry %d of %d, after %q: %v", seed, i, at, len(writes), note, err)
		}
		dev := testenv.Disk(t, 0, size)
		f, err := os.OpenFile(dev, os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteAt(testenv.PowerOff(random, block, base, writes[:at+1]), 0)
		must(t, errors.Join(err, f.Sync(), f.Close()))
		dst := mount(dev)
		if note == "verified" {
			if err := Verify(t.Context(), m, src, dst, nil); err != nil {
				failed(err)
			}
		}
		again, stale, err := CopyVerified(t.Context(), src, dst, Options{})
		if stale > 0 {
			outcome["stale"]++
		}
		if err == nil {
			err = Unchanged(t.Context(), again, src)
		}
		if err != nil {
			failed(err)
		}
		must(t, syscall.Unmount(disk, 0))
		if out, err := exec.CommandContext(t.Context(), "e2fsck", "-f", "-n", dev).CombinedOutput(); err != nil {
			failed(fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out))))
		}
	}
	t.Logf("%d entries, cuts: %v", len(writes), outcome)
	if outcome[""] == 0 || outcome["live"] == 0 {
		t.Errorf("not every kind was seen: %v", outcome)
	}
}

// Something that is mounted in the source is another tree, a part of the same file system too; and a container that has the source mounted uses it, even
// with nothing open.
func TestMounts(t *testing.T) {
	testenv.Guest(t)
	src := tree(t)
	size, err := Measure(t.Context(), src)
	must(t, err)
	other := t.TempDir()
	hold := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-c", `mount --bind "$1" "$2" && exec sleep 60`, "sh", filepath.Join(src, "sub"), other)
	must(t, hold.Start())
	defer func() {
		_ = hold.Process.Kill()
		_ = hold.Wait()
	}()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		users, err := size.Users(src)
		must(t, err)
		if len(users) == 1 && users[0].PID == hold.Process.Pid && users[0].How == "mounted at "+other {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("users: %v", users)
		}
	}
	must(t, syscall.Mount(other, filepath.Join(src, "sub/deep"), "", syscall.MS_BIND, ""))
	defer syscall.Unmount(filepath.Join(src, "sub/deep"), 0)
	var mounted *MountedError
	if _, err := Copy(t.Context(), src, dest(t), Options{}); !errors.As(err, &mounted) || mounted.Path != filepath.Join(src, "sub/deep") {
		t.Errorf("a bind mount: %v", err)
	}
}

// A process that stands in the source uses it.
func TestUsers(t *testing.T) {
	testenv.Guest(t)
	src := tree(t)
	size, err := Measure(t.Context(), src)
	must(t, err)
	users := func() []sys.Process {
		t.Helper()
		users, err := size.Users(src)
		must(t, err)
		return users
	}
	if all := users(); len(all) > 0 {
		t.Errorf("nobody: %v", all)
	}
	hold := exec.CommandContext(t.Context(), "sleep", "60")
	hold.Dir = filepath.Join(src, "sub")
	must(t, hold.Start())
	defer func() {
		_ = hold.Process.Kill()
		_ = hold.Wait()
	}()
	if all := users(); len(all) != 1 || all[0].PID != hold.Process.Pid || all[0].How != "working directory" {
		t.Errorf("a process in it: %v", all)
	}
}
