// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/kek/file"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
	"github.com/voluks/voluks/keyslot"
)

// realManager is the Manager of a node below a directory, with the real storage.
func realManager(dir string) *volume.Manager {
	paths := config.PathsUnder(dir)
	return volume.New(volume.Options{
		Paths: paths, Storage: volume.NewStorage(volume.StorageOptions{}), Defaults: volume.Defaults{Size: 32 << 20, FS: "ext4", Overcommit: true},
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Keyring: func(context.Context) (*keyslot.Keyring, error) {
			cfg := config.Default(paths)
			cfg.Recovery = config.Recovery{Recipients: []string{os.Getenv("VOLUKS_TEST_RECIPIENT")}, Confirmed: true}
			return keyslot.OpenKeyring(cfg)
		},
	})
}

// realClient is an agent with real workers.
func realClient(t *testing.T, spares int) (*Client, string) {
	t.Helper()
	testenv.Guest(t)
	testenv.LeakCheck(t)
	dir := t.TempDir()
	paths := config.PathsUnder(dir)
	t.Cleanup(func() { // an immutable mountpoint would stay
		bare, _ := filepath.Glob(filepath.Join(paths.MountsDir(), "*"))
		for _, mnt := range bare {
			if err := filesystem.RemoveBare(mnt); err != nil {
				t.Error(err)
			}
		}
	})
	if err := os.MkdirAll(paths.Config, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Generate(paths.MasterKey()); err != nil {
		t.Fatal(err)
	}
	t.Setenv("VOLUKS_TEST_RECIPIENT", volumetest.Recipient(t).String())
	c := NewClient(Options{
		Manager: realManager(dir), Command: []string{"/proc/self/exe", "worker-real", dir},
		Spares: spares, Grace: time.Second, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	t.Cleanup(func() {
		c.Close()
		soon(t, "all workers end", func() bool { return c.alive.Load() == 0 })
	})
	return c, dir
}

// The life of a volume through workers. The agent's own process has no key and no handle of libcryptsetup.
func TestGuestWorkers(t *testing.T) {
	c, _ := realClient(t, 1)
	ctx := t.Context()
	begin := time.Now()
	if _, made, err := c.Create(ctx, spec(t, "db", 32<<20)); err != nil || !made {
		t.Fatal(err)
	}
	t.Logf("create: %v", time.Since(begin))
	for i := range 4 {
		soon(t, "a spare", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return len(c.spares) == 1 })
		time.Sleep(200 * time.Millisecond) // a measurement: the spare is to have started
		begin = time.Now()
		path, err := c.Mount(ctx, "db", holder)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("mount %d: %v", i, time.Since(begin))
		if got, err := c.Path(ctx, "db"); err != nil || got != path {
			t.Errorf("path %q, %v", got, err)
		}
		begin = time.Now()
		if err := c.Unmount(ctx, "db", "a"); err != nil {
			t.Fatal(err)
		}
		t.Logf("unmount %d: %v", i, time.Since(begin))
	}
	if err := c.Remove(ctx, "db"); err != nil {
		t.Fatal(err)
	}
}

// F12, and a device that stops answering below one volume: that volume is stuck, its workers are abandoned, every other call on every other volume
// answers as before; and when the device is back, so is the volume.
func TestGuestStuck(t *testing.T) {
	disk := testenv.Disk(t, 0, 96<<20)
	c, dir := realClient(t, 0)
	paths := config.PathsUnder(dir)
	ctx := t.Context()
	size, err := sys.BlockDeviceSize(disk)
	if err != nil {
		t.Fatal(err)
	}
	// The directory of the volume "slow" is a file system of its own, on a device that can be suspended.
	testenv.DM(t, "voluks-test-lower", fmt.Sprintf("0 %d linear %s 0", size/512, disk))
	lower := "/dev/mapper/voluks-test-lower"
	if err := filesystem.Make(ctx, lower, filesystem.Spec{Type: filesystem.Ext4, UUID: "01234567-89ab-4def-8123-456789abcdef", Overwrite: true}); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(paths.VolumeDir("slow"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(lower, paths.VolumeDir("slow"), "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			if err := syscall.Unmount(paths.VolumeDir("slow"), 0); err == nil {
				return
			} else if time.Now().After(end) {
				t.Error(err)
				return
			}
		}
	})
	if err := os.Remove(filepath.Join(paths.VolumeDir("slow"), "lost+found")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"slow", "fine"} {
		if _, _, err := c.Create(ctx, spec(t, name, 32<<20)); err != nil {
			t.Fatal(err)
		}
	}
	path, err := c.Mount(ctx, "slow", holder)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "canary"), []byte("here"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Unmount(ctx, "slow", "a"); err != nil {
		t.Fatal(err)
	}

	testenv.DMSuspend(t, "voluks-test-lower")
	resumed := false
	defer func() {
		if !resumed {
			testenv.DMResume(t, "voluks-test-lower")
		}
	}()
	short := func() (context.Context, context.CancelFunc) { return context.WithTimeout(ctx, time.Second) }
	begin := time.Now()
	sctx, cancel := short()
	_, err = c.Mount(sctx, "slow", holder)
	cancel()
	t.Logf("mount of the suspended: %v after %v", err, time.Since(begin))
	if !errors.Is(err, volume.ErrStuck) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("it took %v", took)
	}
	// Everything else answers, while the worker hangs.
	others := func() {
		t.Helper()
		begin := time.Now()
		infos, err := c.List(ctx)
		if err != nil || len(infos) != 2 {
			t.Errorf("list: %v, %v", infos, err)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("list took %v", took)
		}
		if _, err := c.Mount(ctx, "fine", holder); err != nil {
			t.Errorf("mount of the other: %v", err)
		}
		if err := c.Unmount(ctx, "fine", "a"); err != nil {
			t.Errorf("unmount of the other: %v", err)
		}
	}
	others()
	// The note of the abandoned worker falls due after the time that its undo would have had.
	deadline := time.Now().Add(40 * time.Second)
	for {
		info, err := c.Inspect(ctx, "slow")
		if err != nil {
			t.Fatal(err)
		}
		if info.State == volume.StateStuck {
			if !strings.Contains(info.Reason, "mount (process") {
				t.Errorf("reason %q", info.Reason)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("never stuck: %+v", info)
		}
		time.Sleep(100 * time.Millisecond)
	}
	// From then on nobody waits for it.
	begin = time.Now()
	if err := c.Unmount(ctx, "slow", "a"); !errors.Is(err, volume.ErrStuck) {
		t.Errorf("unmount: %v", err)
	}
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("it took %v", took)
	}
	others()

	testenv.DMResume(t, "voluks-test-lower")
	resumed = true
	soon(t, "it is not stuck any more", func() bool {
		info, err := c.Inspect(ctx, "slow")
		return err == nil && info.State != volume.StateStuck
	})
	if err := c.Reconcile(ctx); err != nil {
		t.Errorf("reconcile: %v", err)
	}
	path, err = c.Mount(ctx, "slow", holder)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(path, "canary")); err != nil || string(b) != "here" {
		t.Errorf("%q, %v", b, err)
	}
	if err := c.Unmount(ctx, "slow", "a"); err != nil {
		t.Fatal(err)
	}
}
