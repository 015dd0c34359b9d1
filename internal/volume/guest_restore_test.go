// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/volume"
)

// withIdentity gives the node a recovery identity that is kept below its root, for this process and its children.
func (r *real) withIdentity() {
	r.t.Helper()
	text, recipient, err := recovery.Generate()
	if err != nil {
		r.t.Fatal(err)
	}
	defer text.Wipe()
	r.recipient = recipient
	if err := os.WriteFile(filepath.Join(r.root, "identity"), text.Bytes(), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// restorer is a Manager with header backups, whose named points are told, too.
func (r *real) restorer(at func(point string)) *volume.Manager {
	return volume.New(volume.Options{
		Paths: r.paths, Defaults: realDefaults, Log: r.log, Crash: at,
		Storage: volume.NewStorage(volume.StorageOptions{Log: r.log}), Keyring: r.keyring,
		Backups: volume.HeaderBackups{Dir: filepath.Join(r.paths.State, "backups")},
	})
}

// restore puts the newest backup of a volume back.
func (r *real) restore(ctx context.Context, m *volume.Manager, name string) error {
	b, err := os.ReadFile(filepath.Join(r.root, "identity"))
	if err != nil {
		return err
	}
	text, err := secret.Move(b)
	if err != nil {
		return err
	}
	defer text.Wipe()
	identities, err := recovery.ParseIdentities(text)
	if err != nil {
		return err
	}
	info, err := m.Inspect(ctx, name)
	if err != nil {
		return err
	}
	store := headerbackup.New(headerbackup.Options{Dir: filepath.Join(r.paths.State, "backups")})
	backups, err := store.List(info.UUID)
	if err != nil || len(backups) == 0 {
		return errors.Join(err, headerbackup.ErrNone)
	}
	image, err := headerbackup.Open(backups[len(backups)-1].Copies[0].Path, identities)
	if err != nil {
		return err
	}
	done, err := m.RestoreHeader(ctx, name, volume.RestoreParams{Image: image, Identities: identities})
	if err == nil && (done.NotProven != "" || len(done.Proven) != 1) {
		err = errors.New("not proven: " + done.NotProven)
	}
	return err
}

// F29: a process that restores a header is killed at each named point. A header that was good is good at each of them; one that was gone is there after
// the next restore; and the data is what it was.
func TestGuestKillRestore(t *testing.T) {
	r := newReal(t)
	r.withIdentity()
	if _, _, err := r.restorer(nil).Create(t.Context(), r.spec("db")); err != nil {
		t.Fatal(err)
	}
	path := r.mount("db", "a")
	r.put(path, canary)
	r.unmount("db", "a")
	wipe := func() {
		t.Helper()
		f, err := os.OpenFile(r.image("db"), os.O_WRONLY, 0)
		if err == nil {
			_, err = f.WriteAt(make([]byte, 1<<20), 0)
			err = errors.Join(err, f.Sync(), f.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var points []string
	wipe()
	if err := r.restore(t.Context(), r.restorer(func(point string) { points = append(points, point) }), "db"); err != nil {
		t.Fatal(err)
	}
	if len(points) < 7 {
		t.Errorf("only %v", points)
	}
	for _, point := range points {
		for _, gone := range []bool{true, false} {
			if gone {
				wipe()
			}
			r.kill(point, order{Op: "restore", Name: "db"})
			if !gone {
				r.get(r.mount("db", "a"), canary)
				r.unmount("db", "a")
			}
			if err := r.restore(t.Context(), r.restorer(nil), "db"); err != nil {
				t.Errorf("%s, gone %t: %v", point, gone, err)
			}
		}
		r.get(r.mount("db", "a"), canary)
		r.unmount("db", "a")
		r.clean()
	}
}
