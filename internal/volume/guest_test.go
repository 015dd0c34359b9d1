// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
	"github.com/voluks/voluks/keyslot"
)

// real is a node with the real storage.
type real struct {
	paths    config.Paths
	provider *kektest.Memory
	keyring  *keyslot.Keyring
	log      *slog.Logger
}

func newReal(t testing.TB) *real {
	t.Helper()
	testenv.Guest(t)
	testenv.LeakCheck(t)
	provider := kektest.NewMemory("test")
	return &real{
		paths: config.PathsUnder(t.TempDir()), provider: provider,
		keyring: &keyslot.Keyring{KEK: provider.Set(), Recipients: []recovery.Recipient{volumetest.Recipient(t)}},
		log:     slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func (r *real) manager() *volume.Manager { return r.managerAt(nil) }

// managerAt is a Manager that calls at for each named point between two writes.
func (r *real) managerAt(at func(point string)) *volume.Manager {
	return volume.New(volume.Options{
		Crash: at,
		Paths: r.paths, Defaults: volume.Defaults{Size: 32 << 20, FS: "ext4", Overcommit: true}, Log: r.log, SweepGap: time.Nanosecond,
		Storage: volume.NewStorage(volume.StorageOptions{Log: r.log}),
		Keyring: func(context.Context) (*keyslot.Keyring, error) { return r.keyring, nil },
	})
}

func (r *real) spec(t testing.TB, name string, opts ...string) volume.Spec {
	t.Helper()
	o := map[string]string{}
	for _, s := range opts {
		k, v, _ := strings.Cut(s, "=")
		o[k] = v
	}
	s, err := volume.ParseOptions(name, o, volume.Defaults{Size: 32 << 20, FS: "ext4", Overcommit: true})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestGuestLife(t *testing.T) {
	r := newReal(t)
	begin := time.Now()
	lap := func(what string) {
		t.Logf("%s: %v", what, time.Since(begin).Round(time.Millisecond))
		begin = time.Now()
	}
	points := r.managerAt(func(point string) { t.Logf("%s at %v", point, time.Since(begin).Round(time.Millisecond)) })
	info, made, err := points.Create(t.Context(), r.spec(t, "db"))
	if err != nil || !made {
		t.Fatal(err)
	}
	lap("create")
	t.Logf("%+v", info)
	path, err := points.Mount(t.Context(), "db", docker("a"))
	if err != nil {
		t.Fatal(err)
	}
	lap("mount")
	if err := os.WriteFile(filepath.Join(path, "canary"), []byte(canary), 0o600); err != nil {
		t.Error(err)
	}
	info, err = r.manager().Inspect(t.Context(), "db")
	lap("inspect")
	if err != nil || info.State != volume.StateMounted || info.Mountpoint != path {
		t.Errorf("%+v, %v", info, err)
	}
	if err := r.manager().Unmount(t.Context(), "db", "a"); err != nil {
		t.Fatal(err)
	}
	lap("unmount")
	path, err = r.manager().Mount(t.Context(), "db", docker("a"))
	if err != nil {
		t.Fatal(err)
	}
	lap("mount again")
	if b, err := os.ReadFile(filepath.Join(path, "canary")); err != nil || string(b) != canary {
		t.Errorf("%q, %v", b, err)
	}
	if err := r.manager().Unmount(t.Context(), "db", "a"); err != nil {
		t.Fatal(err)
	}
	lap("unmount")
	if err := r.manager().Remove(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	lap("remove")
}
