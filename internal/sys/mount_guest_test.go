// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/testenv"
)

// tmpfsAt mounts a tmpfs for the test.
func tmpfsAt(t *testing.T, dir string) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	must(t, Mount("tmpfs", dir, "tmpfs", MountNoSUID|MountNoDev, "size=1m"))
	t.Cleanup(func() {
		if err := Unmount(dir); err != nil && !errors.Is(err, ErrNotExist) {
			t.Error(err)
		}
	})
}

func TestUnmount(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	dir := filepath.Join(t.TempDir(), "a b\\c")
	must(t, os.Mkdir(dir, 0o755))
	if err := Unmount(dir); !errors.Is(err, ErrNotExist) {
		t.Errorf("nothing mounted: %v", err)
	}
	tmpfsAt(t, dir)
	table, err := MountInfoOf("self")
	must(t, err)
	if !slices.ContainsFunc(table, func(m MountInfo) bool {
		return m.Mountpoint == dir && m.FSType == "tmpfs" && strings.Contains(m.Options, "nosuid,nodev")
	}) {
		t.Errorf("%q is not in the table", dir)
	}
	f, err := os.Create(filepath.Join(dir, "f"))
	must(t, err)
	if err := Unmount(dir); !errors.Is(err, ErrBusy) || !errors.Is(err, syscall.EBUSY) {
		t.Errorf("in use: %v", err)
	}
	// Not lazily: what was there is still there.
	if _, err := os.Stat(f.Name()); err != nil {
		t.Error(err)
	}
	must(t, f.Close())
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(dir, link))
	if err := Unmount(link); err == nil {
		t.Error("followed a link")
	}
	must(t, Unmount(dir))
}

func TestImmutable(t *testing.T) {
	testenv.LeakCheck(t)
	dir := filepath.Join(testenv.Ext4Dir(t, 0), "bare")
	must(t, os.Mkdir(dir, 0))
	must(t, SetImmutable(dir, true))
	if err := os.WriteFile(filepath.Join(dir, "plaintext"), nil, 0o600); err == nil { // F21
		t.Error("root could write into it")
	}
	tmpfsAt(t, dir)
	must(t, os.WriteFile(filepath.Join(dir, "f"), nil, 0o600))
	must(t, Unmount(dir))
	if err := os.Remove(dir); err == nil {
		t.Error("could be removed")
	}
	must(t, SetImmutable(dir, false))
	must(t, os.Remove(dir))
}

func TestNoCOWOnBtrfs(t *testing.T) {
	testenv.LeakCheck(t)
	dir := testenv.BtrfsDir(t, 0)
	f := openFile(t, filepath.Join(dir, "image"))
	must(t, SetNoCOW(f))
	out, err := exec.Command("lsattr", f.Name()).Output()
	if err != nil || !strings.Contains(strings.Fields(string(out))[0], "C") {
		t.Errorf("%s, %v", out, err)
	}
	must(t, f.Close())
}

// sleeper starts a process in a mount namespace of its own, which has a private copy of all mounts.
func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	// cat waits for its input; the first line comes back when the namespace is ready.
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "cat")
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	_, err = in.Write([]byte("x"))
	must(t, err)
	_, err = out.Read(make([]byte, 1))
	must(t, err)
	return cmd
}

// F17: a mount that another namespace keeps is found there, with the processes to look at.
func TestForeignNamespaceHoldsDevice(t *testing.T) {
	testenv.LeakCheck(t)
	for _, fs := range []struct {
		name string
		make func(testing.TB, int) string
	}{{"ext4", testenv.Ext4Dir}, {"btrfs", testenv.BtrfsDir}} {
		t.Run(fs.name, func(t *testing.T) {
			dir := fs.make(t, 0)
			major, minor, err := DevOf(testenv.Disk(t, 0, 0))
			must(t, err)
			holders := func() []NSHolder {
				t.Helper()
				h, err := NamespacesWithDevice(major, minor)
				must(t, err)
				return h
			}
			if h := holders(); len(h) != 1 || h[0].Mountpoint != dir || !slices.Contains(h[0].PIDs, os.Getpid()) {
				t.Errorf("alone: %+v", h)
			}
			t.Run("shared", func(t *testing.T) {
				cmd := sleeper(t)
				h := holders()
				if len(h) != 2 || !slices.ContainsFunc(h, func(h NSHolder) bool { return slices.Equal(h.PIDs, []int{cmd.Process.Pid}) }) {
					t.Errorf("with process %d: %+v", cmd.Process.Pid, h)
				}
			})
			if h := holders(); len(h) != 1 {
				t.Errorf("afterwards: %+v", h)
			}
		})
	}
}

// F51: a namespace that no process is in, but a mount keeps, is read as well.
func TestPinnedNamespace(t *testing.T) {
	dir := testenv.Ext4Dir(t, 0)
	testenv.LeakCheck(t)
	pins := t.TempDir()
	must(t, Mount(pins, pins, "", MountBind, ""))
	defer func() { must(t, Unmount(pins)) }()
	must(t, Mount("", pins, "", MountPrivate, ""))
	pin := filepath.Join(pins, "ns")
	must(t, os.WriteFile(pin, nil, 0o600))
	if out, err := exec.Command("unshare", "--mount="+pin, "--propagation", "private", "true").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pinned := true
	defer func() {
		if pinned {
			must(t, Unmount(pin))
		}
	}()
	major, minor, err := DevOf(testenv.Disk(t, 0, 0))
	must(t, err)
	home, err := nsOf("/proc", os.Getpid())
	must(t, err)
	for range 50 {
		if _, err := NamespacesWithDevice(major, minor); err != nil {
			t.Fatal(err)
		}
		// This process itself stays where it was: every goroutine may get every thread, the first one included.
		if now, err := nsOf("/proc", os.Getpid()); err != nil || now != home {
			t.Fatalf("moved to namespace %d, %v", now, err)
		}
	}
	h, err := NamespacesWithDevice(major, minor)
	must(t, err)
	if len(h) != 2 || !slices.ContainsFunc(h, func(h NSHolder) bool { return len(h.PIDs) == 0 && h.Mountpoint == dir }) {
		t.Errorf("%+v", h)
	}
	// A pin that is covered cannot be entered: unknown.
	must(t, os.WriteFile(filepath.Join(pins, "cover"), nil, 0o600))
	must(t, Mount(filepath.Join(pins, "cover"), pin, "", MountBind, ""))
	if h, err := NamespacesWithDevice(major, minor); !errors.Is(err, ErrUnknown) {
		t.Errorf("%+v, %v", h, err)
	}
	must(t, Unmount(pin))
	must(t, Unmount(pin))
	pinned = false
	if h, err := NamespacesWithDevice(major, minor); err != nil || len(h) != 1 {
		t.Errorf("%+v, %v", h, err)
	}
}

// Processes that end while they are asked for their namespace are no reason not to know who holds a device. F51
func TestNamespacesOfProcessesThatEnd(t *testing.T) {
	testenv.Guest(t)
	enough := time.Now().Add(3 * time.Second) // a hundred rounds; without care for such processes one in a hundred failed
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for time.Now().Before(enough) {
				if err := exec.Command("true").Run(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for time.Now().Before(enough) {
		if _, err := MountNamespaces(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}
