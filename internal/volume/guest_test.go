// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/kek/file"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
	"github.com/voluks/voluks/keyslot"
)

var realDefaults = volume.Defaults{Size: 32 << 20, FS: "ext4", Overcommit: true}

// real is a node with the real storage and a master key in a file, so that a child process can be the same node.
type real struct {
	t     testing.TB
	root  string
	paths config.Paths
	log   *slog.Logger
	// recipient is text, for the child.
	recipient string
	// active is the number of the master key that wraps, once there are several; see keys.
	active int
	// lend is a file with a recovery identity that Managers get, or "".
	lend     string
	defaults volume.Defaults
}

func newReal(t testing.TB) *real {
	t.Helper()
	testenv.Guest(t)
	testenv.LeakCheck(t)
	root := t.TempDir()
	t.Cleanup(func() { // an immutable mountpoint would stay
		bare, _ := filepath.Glob(filepath.Join(config.PathsUnder(root).MountsDir(), "*"))
		for _, dir := range bare {
			if err := filesystem.RemoveBare(dir); err != nil {
				t.Error(err)
			}
		}
	})
	r := &real{
		t: t, root: root, paths: config.PathsUnder(root), recipient: volumetest.Recipient(t).String(),
		log: slog.New(slog.NewTextHandler(t.Output(), nil)), defaults: realDefaults,
	}
	if err := os.MkdirAll(r.paths.Config, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Generate(r.paths.MasterKey()); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *real) keyring(context.Context) (*keyslot.Keyring, error) {
	cfg := config.Default(r.paths)
	cfg.Recovery = config.Recovery{Recipients: []string{r.recipient}, Confirmed: true}
	others := []string{r.paths.MasterKey(), r.paths.MasterKey() + ".next"}
	cfg.KEK.File = &config.File{Path: others[r.active]}
	if previous := others[1-r.active]; exists(previous) {
		cfg.Previous = []config.KEK{{Provider: "file", File: &config.File{Path: previous}}}
	}
	return keyslot.OpenKeyring(cfg)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (r *real) manager() *volume.Manager { return r.managerAt(nil) }

// managerAt is a Manager that calls at for each named point between two writes.
func (r *real) managerAt(at func(point string)) *volume.Manager {
	return volume.New(volume.Options{
		Paths: r.paths, Defaults: r.defaults, Log: r.log, SweepGap: time.Nanosecond, Patience: 200 * time.Millisecond, Crash: at,
		Storage: volume.NewStorage(volume.StorageOptions{Log: r.log}), Keyring: r.keyring,
		Backups: volume.HeaderBackups{Dir: filepath.Join(r.paths.State, "backups")}, Identities: identitiesIn(r.lend),
	})
}

func (r *real) spec(name string, opts ...string) volume.Spec {
	r.t.Helper()
	o := map[string]string{}
	for _, s := range opts {
		k, v, _ := strings.Cut(s, "=")
		o[k] = v
	}
	s, err := volume.ParseOptions(name, o, r.defaults)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *real) create(name string, opts ...string) volume.Info {
	r.t.Helper()
	info, made, err := r.manager().Create(r.t.Context(), r.spec(name, opts...))
	if err != nil || !made {
		r.t.Fatalf("create: made %t, %v", made, err)
	}
	return info
}

func (r *real) mount(name, id string) string {
	r.t.Helper()
	path, err := r.manager().Mount(r.t.Context(), name, docker(id))
	if err != nil {
		r.t.Fatal(err)
	}
	return path
}

func (r *real) unmount(name, id string) {
	r.t.Helper()
	if err := r.manager().Unmount(r.t.Context(), name, id); err != nil {
		r.t.Fatal(err)
	}
}

func (r *real) inspect(name string) volume.Info {
	r.t.Helper()
	info, err := r.manager().Inspect(r.t.Context(), name)
	if err != nil {
		r.t.Fatal(err)
	}
	return info
}

func (r *real) image(name string) string { return filepath.Join(r.paths.VolumeDir(name), "image") }

// tables is what the kernel has: device-mapper devices, loop devices and mounts below the node's root.
func (r *real) tables() []string {
	r.t.Helper()
	var all []string
	for _, glob := range []string{"/sys/block/dm-*/dm/name", "/sys/block/loop*/loop/backing_file"} {
		paths, _ := filepath.Glob(glob)
		for _, p := range paths {
			if b, err := os.ReadFile(p); err == nil {
				all = append(all, strings.TrimSpace(string(b)))
			}
		}
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		r.t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, r.root) {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return all
}

// testDisk begins the names of what stands for disks.
const testDisk = "voluks-test-"

// clean checks that the kernel has nothing of the node.
func (r *real) clean() {
	r.t.Helper()
	var left []string
	for range 100 { // the last close of a loop device is a moment later
		left = slices.DeleteFunc(r.tables(), func(s string) bool { return strings.HasPrefix(s, testDisk) })
		if len(left) == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	r.t.Errorf("the kernel still has %v", left)
}

// in makes a subtest the one that the node's methods fail, until the returned function is called.
func (r *real) in(t *testing.T) (restore func()) {
	before := r.t
	r.t = t
	return func() { r.t = before }
}

// purge empties the tombstones: the guest's disk is its memory.
func (r *real) purge() {
	r.t.Helper()
	if err := os.RemoveAll(r.paths.RemovedDir()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *real) put(path, content string) {
	r.t.Helper()
	if err := os.WriteFile(filepath.Join(path, "canary"), []byte(content), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

func (r *real) get(path, want string) {
	r.t.Helper()
	if b, err := os.ReadFile(filepath.Join(path, "canary")); err != nil || string(b) != want {
		r.t.Errorf("read %q, %v; want %q", b, err, want)
	}
}

// run runs a command and returns what it wrote.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// order is what a child process of a test does: this test binary, started again.
type order struct {
	Root, Recipient, Op, Name, Holder string
	Role, KeyID                       string // of changes of keys
	Active                            int    // master key
	Lend                              string // file with a recovery identity
	Spec                              volume.Spec
	Size                              int64  // of grow
	KillAt                            string // a named point
}

const orderVar = "VOLUKS_TEST_ORDER"

// child does the order in the environment, if there is one, and then exits. It is how a test gets a real process to kill.
func child() {
	text, ok := os.LookupEnv(orderVar)
	if !ok {
		return
	}
	var o order
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		panic(err)
	}
	r := &real{
		root: o.Root, paths: config.PathsUnder(o.Root), recipient: o.Recipient, active: o.Active, lend: o.Lend, log: slog.New(slog.DiscardHandler), defaults: realDefaults,
	}
	at := func(point string) {
		if point == o.KillAt {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	m := r.managerAt(at)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	switch o.Op {
	case "create":
		_, _, err = m.Create(ctx, o.Spec)
	case "mount":
		_, err = m.Mount(ctx, o.Name, docker(o.Holder))
	case "unmount":
		err = m.Unmount(ctx, o.Name, o.Holder)
	case "remove":
		err = m.Remove(ctx, o.Name)
	case "undelete":
		_, err = m.Undelete(ctx, o.Name)
	case "erase":
		var seen volume.Removed
		if seen, err = m.FindRemoved(ctx, o.Name); err == nil {
			_, err = m.Erase(ctx, seen)
		}
	case "restore":
		err = r.restore(ctx, r.restorer(at), o.Name)
	case "grow":
		_, err = m.Grow(ctx, o.Name, o.Size)
	default:
		err = o.changeKeys(ctx, m)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// kill runs an operation in a process of its own, which kills itself at the point. It fails the test if the process does not get there.
func (r *real) kill(point string, o order) {
	r.t.Helper()
	o.Root, o.Recipient, o.Active, o.Lend, o.KillAt = r.root, r.recipient, r.active, r.lend, point
	text, err := json.Marshal(o)
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.CommandContext(r.t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), orderVar+"="+string(text))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		r.t.Fatalf("%s was not killed at %s: %v: %s", o.Op, point, err, out.String())
	}
}

// points are the named points that an operation passes.
func (r *real) points(do func(m *volume.Manager) error) []string {
	r.t.Helper()
	var all []string
	if err := do(r.managerAt(func(point string) { all = append(all, point) })); err != nil {
		r.t.Fatal(err)
	}
	return all
}
