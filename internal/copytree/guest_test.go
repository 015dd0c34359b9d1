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

	"github.com/voluks/voluks/internal/testenv"
)

func TestMain(m *testing.M) {
	if os.Getenv("VOLUKS_GUEST") != "" {
		attribute = "trusted.comment"
	}
	testenv.Main(m)
}

// Power cuts at random instants of three passes over a source that changes between them. After each the file system of the copy is sound, another pass goes on
// and is verified; and once a pass was verified all of it is there without another one, with its manifest.
func TestPowerCuts(t *testing.T) {
	testenv.Guest(t)
	random, seed := testenv.Random(t)

	const size = 24 << 20 // torn at blocks, the sectors of a volume: ext4 does not survive torn ones
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
	mount := func(dev string) *Tree {
		t.Helper()
		must(t, syscall.Mount(dev, disk, "ext4", 0, ""))
		dst := filepath.Join(disk, "data")
		if err := os.Mkdir(dst, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
			t.Fatal(err)
		}
		tree, err := Open(dst)
		must(t, err)
		return tree
	}
	unmount := func(dst *Tree) {
		t.Helper()
		must(t, errors.Join(dst.Close(), syscall.Unmount(disk, 0)))
	}
	src := tree(t)
	source := opened(t, src)
	p := func(name string) string { return filepath.Join(src, name) }
	for i := range 40 {
		must(t, os.WriteFile(p(fmt.Sprintf("sub/%d", i)), bytes.Repeat([]byte{byte(i)}, 1+random.IntN(60_000)), 0o600))
	}
	dst := mount(r.Path)
	_, err = Copy(t.Context(), source, dst, Options{Live: true})
	must(t, err)
	r.Mark(t, "live")
	for i := range 20 {
		must(t, os.WriteFile(p(fmt.Sprintf("sub/%d", 2*i)), bytes.Repeat([]byte{byte(i)}, 1+random.IntN(60_000)), 0o600))
	}
	must(t, os.RemoveAll(p("sub/deep")))
	must(t, os.Rename(p("plain"), p("sub/plain")))
	m, err := Copy(t.Context(), source, dst, Options{})
	must(t, err)
	must(t, Verify(t.Context(), m, source, dst, nil))
	r.Mark(t, "verified")
	unmount(dst)
	var writes []testenv.Logged
	r.Replay(t, func(disk []byte, w testenv.Write) {
		writes = append(writes, testenv.Logged{Write: w, Content: bytes.Clone(disk[w.From:w.To])})
	})

	outcome, content := map[string]int{}, make([]byte, size)
	for i := range testenv.PowerCuts(t, 6) {
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
		testenv.PowerOff(content, random, block, base, writes[:at+1])
		_, err = f.WriteAt(content, 0)
		must(t, errors.Join(err, f.Sync(), f.Close()))
		dst := mount(dev)
		if note != "" && note != "live" {
			err := Verify(t.Context(), m, source, dst, nil)
			if touched, err2 := m.Touched(t.Context(), dst); err != nil || err2 != nil || touched != "" {
				failed(fmt.Errorf("%w, %w, touched %q", err, err2, touched))
			}
		}
		again, stale, err := CopyVerified(t.Context(), source, dst, Options{})
		if stale > 0 {
			outcome["stale"]++
		}
		if err == nil {
			err = again.Unchanged(t.Context(), source, false)
		}
		if err != nil {
			failed(err)
		}
		unmount(dst)
		if out, err := exec.CommandContext(t.Context(), "e2fsck", "-f", "-n", dev).CombinedOutput(); err != nil {
			failed(fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out))))
		}
	}
	t.Logf("%d entries, cuts: %v", len(writes), outcome)
}

// Something that is mounted in the source is another tree, a part of the same file system too; a container that has the source mounted uses it, even with
// nothing open. Into what is mounted in the copy nothing is written, nor removed there.
func TestMounts(t *testing.T) {
	testenv.Guest(t)
	src, dst := tree(t), dest(t)
	copied(t, src, dst)
	size, err := opened(t, src).Measure(t.Context())
	must(t, err)
	other := t.TempDir()
	hold := exec.CommandContext(t.Context(), "unshare", "--mount", "--propagation", "private", "sh", "-c", `mount --bind "$1" "$2" && exec sleep 60`, "sh", filepath.Join(src, "sub"), other)
	must(t, hold.Start())
	defer func() {
		_ = hold.Process.Kill()
		_ = hold.Wait()
	}()
	awaitUsers(t, size, src, "a bind mount", func(users []string) bool {
		return len(users) == 1 && strings.Contains(users[0], fmt.Sprintf("process %d", hold.Process.Pid)) && strings.Contains(users[0], "mounted at "+other)
	})
	for dir, err := range map[string]func() error{
		src: func() error { _, err := opened(t, src).Measure(t.Context()); return err },
		dst: func() error { _, err := Copy(t.Context(), opened(t, src), opened(t, dst), Options{}); return err },
	} {
		at := filepath.Join(dir, "sub/deep")
		must(t, syscall.Mount(other, at, "", syscall.MS_BIND, ""))
		var mounted *MountedError
		if err := err(); !errors.As(err, &mounted) || mounted.Path != at {
			t.Errorf("a bind mount: %v", err)
		}
		must(t, syscall.Unmount(at, 0))
	}
}

// Whoever has something of the source is found: by a directory to be in, a file that is open or mapped under another name, or a loop device.
func TestUsers(t *testing.T) {
	testenv.Guest(t)
	src := tree(t)
	p := func(name string) string { return filepath.Join(src, name) }
	libraries, err := filepath.Glob("/lib/*/libm.so.6")
	must(t, err)
	if len(libraries) == 0 {
		t.Fatal("no library to map")
	}
	library, err := os.ReadFile(libraries[0])
	must(t, err)
	must(t, os.WriteFile(p("sub/lib.so"), library, 0o755))
	size, err := opened(t, src).Measure(t.Context())
	must(t, err)
	check := func(what, want string) {
		t.Helper()
		awaitUsers(t, size, src, what, func(users []string) bool {
			return want == "" && len(users) == 0 || want != "" && len(users) == 1 && strings.Contains(users[0], want)
		})
	}
	check("nobody", "")
	run := func(dir, name string, args ...string) func() {
		t.Helper()
		hold := exec.CommandContext(t.Context(), name, args...)
		hold.Dir = dir
		must(t, hold.Start())
		return func() {
			_ = hold.Process.Kill()
			_ = hold.Wait()
		}
	}
	end := run(p("sub"), "sleep", "60")
	check("in it", "working directory")
	end()
	end = run("/", "sh", "-c", `exec 7<"$1" && exec sleep 60`, "sh", p("sub/deep/same"))
	check("open", "open file")
	end()
	end = run("/", "env", "LD_PRELOAD="+p("sub/lib.so"), "sleep", "60") // which keeps no descriptor of it
	check("mapped", "mapped file")
	end()
	check("nobody any more", "")
	must(t, os.Truncate(p("plain"), 1<<19))
	out, err := exec.CommandContext(t.Context(), "losetup", "-f", "--show", p("plain")).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	loop := strings.TrimSpace(string(out))
	check("a loop device", "the loop device "+loop)
	if out, err := exec.CommandContext(t.Context(), "losetup", "-d", loop).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	check("nobody in the end", "")
}

// awaitUsers waits for another process to have got, or lost, what it uses.
func awaitUsers(t *testing.T, size *Size, src, what string, ok func(users []string) bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		users, err := size.Users(src)
		must(t, err)
		if ok(users) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: users %q", what, users)
		}
	}
}
