// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// F9: a process that creates is killed at each named point. Reconcile and the next Create end in a volume that works, with nothing left behind.
func TestGuestKillCreate(t *testing.T) {
	r := newReal(t)
	points := r.points(func(m *volume.Manager) error {
		_, _, err := m.Create(t.Context(), r.spec("sample"))
		return err
	})
	if len(points) < 12 {
		t.Errorf("only %v", points)
	}
	for i, point := range points {
		t.Run(point, func(t *testing.T) {
			defer r.in(t)()
			name := fmt.Sprint("v", i)
			spec := r.spec(name)
			r.kill(point, order{Op: "create", Name: name, Spec: spec})
			if i%2 == 0 { // the agent comes back first, or the user is faster
				if err := r.manager().Reconcile(t.Context()); err != nil {
					t.Error(err)
				}
				r.clean()
			}
			if _, _, err := r.manager().Create(t.Context(), spec); err != nil {
				t.Fatal(err)
			}
			if err := r.manager().Settle(t.Context(), name); err != nil {
				t.Error(err)
			}
			r.clean()
			r.put(r.mount(name, "a"), canary)
			r.unmount(name, "a")
			r.get(r.mount(name, "a"), canary)
			r.unmount(name, "a")
			if err := r.manager().Remove(t.Context(), name); err != nil {
				t.Error(err)
			}
			r.clean()
			r.purge()
		})
	}
}

// F9, F21: the same for mount, unmount and remove of a volume with data in it.
func TestGuestKillOthers(t *testing.T) {
	r := newReal(t)
	r.create("db")
	path := r.mount("db", "a")
	r.put(path, canary)
	r.unmount("db", "a")
	type operation struct {
		op      string
		prepare func()
		do      func(m *volume.Manager) error
	}
	for _, o := range []operation{
		{"mount", func() {}, func(m *volume.Manager) error { _, err := m.Mount(t.Context(), "db", docker("a")); return err }},
		{"unmount", func() { r.mount("db", "a") }, func(m *volume.Manager) error { return m.Unmount(t.Context(), "db", "a") }},
	} {
		o.prepare()
		points := r.points(o.do)
		r.unmount("db", "a")
		if len(points) < 4 {
			t.Errorf("only %v", points)
		}
		for i, point := range points {
			t.Run(o.op+"/"+point, func(t *testing.T) {
				defer r.in(t)()
				o.prepare()
				r.kill(point, order{Op: o.op, Name: "db", Holder: "a"})
				if i%2 == 0 {
					if err := r.manager().Reconcile(t.Context()); err != nil {
						t.Error(err)
					}
					if info := r.inspect("db"); (info.State == volume.StateMounted) != (len(info.Holders) > 0) {
						t.Errorf("got %+v", info)
					}
				}
				r.get(r.mount("db", "b"), canary)
				for _, id := range []string{"a", "b"} {
					r.unmount("db", id)
				}
				r.clean()
			})
		}
	}
	for i := 0; ; i++ {
		name := fmt.Sprint("r", i)
		r.create(name)
		points := []string{"remove.marked", "remove.renamed", "remove.bare"}
		if i == len(points) {
			if got := r.points(func(m *volume.Manager) error { return m.Remove(t.Context(), name) }); fmt.Sprint(got[len(got)-3:]) != fmt.Sprint(points) {
				t.Errorf("points %v", got)
			}
			break
		}
		r.mount(name, "a")
		r.unmount(name, "a")
		r.kill(points[i], order{Op: "remove", Name: name})
		if err := r.manager().Reconcile(t.Context()); err != nil {
			t.Error(err)
		}
		if err := r.manager().Remove(t.Context(), name); err != nil && !errors.Is(err, volume.ErrNotFound) {
			t.Error(err)
		}
		if _, err := os.Lstat(r.paths.Mount(name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: mountpoint: %v", points[i], err)
		}
	}
	r.clean()
}

// F13: a caller that gives up at any point leaves the kernel's tables as they were.
func TestGuestCancel(t *testing.T) {
	r := newReal(t)
	cancelAt := func(n int, do func(context.Context, *volume.Manager) error) (error, bool) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		count := 0
		err := do(ctx, r.managerAt(func(string) {
			if count++; count == n {
				cancel()
			}
		}))
		return err, count >= n
	}
	for n := 1; ; n++ {
		name := fmt.Sprint("v", n)
		err, reached := cancelAt(n, func(ctx context.Context, m *volume.Manager) error {
			_, _, err := m.Create(ctx, r.spec(name))
			return err
		})
		if !reached {
			break
		}
		r.clean()
		if err == nil {
			r.manager().Remove(t.Context(), name)
			r.purge()
			continue
		}
		if !errors.Is(err, volume.ErrCanceled) {
			t.Errorf("create, point %d: %v", n, err)
		}
		if entries, err := os.ReadDir(r.paths.VolumesDir()); err == nil && len(entries) > 0 {
			t.Errorf("create, point %d: left %v", n, entries)
		}
	}
	r.create("db")
	for n := 1; ; n++ {
		err, reached := cancelAt(n, func(ctx context.Context, m *volume.Manager) error {
			_, err := m.Mount(ctx, "db", docker("a"))
			return err
		})
		if err == nil {
			r.unmount("db", "a")
		}
		if !reached {
			break
		}
		if err != nil && !errors.Is(err, volume.ErrCanceled) {
			t.Errorf("mount, point %d: %v", n, err)
		}
		r.clean()
		if held := r.inspect("db").Holders; len(held) > 0 {
			t.Errorf("mount, point %d: holders %v", n, held)
		}
	}
}

// F49: a hundred cycles of mount, write and unmount, with processes killed at changing points. The file system is whole at the end, and so is every file.
func TestGuestCycles(t *testing.T) {
	const cycles = 100
	r := newReal(t)
	info := r.create("db")
	sums := map[string][32]byte{}
	mounts := r.points(func(m *volume.Manager) error { _, err := m.Mount(t.Context(), "db", docker("a")); return err })
	unmounts := r.points(func(m *volume.Manager) error { return m.Unmount(t.Context(), "db", "a") })
	for i := range cycles {
		if i%4 == 1 {
			r.kill(mounts[i/4%len(mounts)], order{Op: "mount", Name: "db", Holder: "a"})
		}
		if i%8 == 1 {
			if err := r.manager().Reconcile(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		path := r.mount("db", "a")
		name := fmt.Sprint("file", i%20)
		content := make([]byte, 64<<10)
		for j := range content {
			content[j] = byte(i + j*7)
		}
		if err := os.WriteFile(filepath.Join(path, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
		sums[name] = sha256.Sum256(content)
		if i%4 == 3 {
			r.kill(unmounts[i/4%len(unmounts)], order{Op: "unmount", Name: "db", Holder: "a"})
		}
		r.unmount("db", "a")
	}
	path := r.mount("db", "a")
	for name, sum := range sums {
		if b, err := os.ReadFile(filepath.Join(path, name)); err != nil || sha256.Sum256(b) != sum {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.unmount("db", "a")
	r.clean()
	r.fsck(info.UUID)
}

// fsck opens the volume by hand and checks its file system.
func (r *real) fsck(uuid string) {
	r.t.Helper()
	loop := run(r.t, "losetup", "--find", "--show", "--sector-size", "4096", r.image("db"))
	loop = loop[:len(loop)-1]
	defer run(r.t, "losetup", "-d", loop)
	keyring, err := r.keyring(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	c := luks.At(loop)
	slot, key, err := keyslot.Unlock(r.t.Context(), c, keyring)
	if err != nil {
		r.t.Fatal(err)
	}
	defer key.Wipe()
	if err := c.Open(luks.OpenParams{Name: "check", Slot: slot, Key: key, Expect: header.Expect{UUID: uuid}}); err != nil {
		r.t.Fatal(err)
	}
	run(r.t, "e2fsck", "-f", "-n", "/dev/mapper/check")
	if err := luks.Close("check"); err != nil {
		r.t.Error(err)
	}
}
