// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/recovery/typable"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks/header"
)

func imageOf(n *volumetest.Node, name string) string {
	return filepath.Join(n.Paths.VolumeDir(name), "image")
}

// generations are what the record says of each role; slots counts them.
func generations(t *testing.T, n *volumetest.Node, name string) (agent, recovery uint64, slots int) {
	t.Helper()
	info, err := n.Manager().Inspect(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range info.Slots {
		switch s.Role {
		case keyslot.RoleAgent:
			agent = s.Generation
		case keyslot.RoleRecovery:
			recovery = s.Generation
		}
	}
	return agent, recovery, len(info.Slots)
}

// The volume stays mounted and its files stay; the record and the receipt tell of the new slots. F29 F33
func TestRotate(t *testing.T) {
	for _, mounted := range []bool{true, false} {
		n := volumetest.NewNode(t)
		create(t, n, "db")
		path := mount(t, n, "db", docker("a"))
		n.Put(path, "canary", canary)
		if !mounted {
			if err := n.Manager().Unmount(t.Context(), "db", "a"); err != nil {
				t.Fatal(err)
			}
		}
		r, err := n.Manager().Rotate(t.Context(), "db", keyslot.RoleAgent, keyslot.RoleRecovery)
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Rotated) != 2 || r.Rotated[0].OldGeneration != 1 || r.Rotated[0].NewGeneration != 2 || r.Rotated[1].NewGeneration != 3 || len(r.Warnings) > 0 || !r.Changed() {
			t.Errorf("receipt %+v", r)
		}
		if a, rec, slots := generations(t, n, "db"); a != 2 || rec != 3 || slots != 2 {
			t.Errorf("the record has generations %d, %d in %d slots", a, rec, slots)
		}
		kept, _ := filepath.Glob(filepath.Join(n.Paths.State, "receipts", r.UUID, "*-rotate.json"))
		if len(kept) != 1 {
			t.Fatalf("receipts %v", kept)
		}
		var again volume.KeyReceipt
		if b, err := os.ReadFile(kept[0]); err != nil || json.Unmarshal(b, &again) != nil || again.Volume != "db" || len(again.Rotated) != 2 {
			t.Errorf("receipt %+v, %v", again, err)
		}
		if !mounted {
			path = mount(t, n, "db", docker("a"))
		}
		if got := n.Get(path, "canary"); got != canary {
			t.Errorf("the data is %q", got)
		}
		if err := n.Manager().Unmount(t.Context(), "db", "a"); err != nil {
			t.Error(err)
		}
		clean(t, n)
	}
}

// A process killed after any of its writes, with and without the machine: the volume mounts, and the next run ends clean. F29 F31 F32
func TestKillWhileKeysChange(t *testing.T) {
	next := kektest.NewMemory("next")
	typed, err := typable.Generate()
	if err != nil {
		t.Fatal(err)
	}
	defer typed.Wipe()
	to := volumetest.Recipient(t)
	for name, do := range map[string]func(context.Context, *volume.Manager) error{
		"rekey": func(ctx context.Context, m *volume.Manager) error { _, err := m.Rekey(ctx, "db"); return err },
		"recovery key": func(ctx context.Context, m *volume.Manager) error {
			r, err := m.AddRecoveryKey(ctx, "db", typed)
			if err == nil {
				_, err = m.RemoveRecoveryKey(ctx, "db", r.Rotated[0].NewSlot)
			}
			return err
		},
		"rotate": func(ctx context.Context, m *volume.Manager) error {
			_, err := m.Rotate(ctx, "db", keyslot.RoleAgent)
			return err
		},
		"recovery": func(ctx context.Context, m *volume.Manager) error {
			_, err := m.Rotate(ctx, "db", keyslot.RoleRecovery)
			return err
		},
		"rewrap": func(ctx context.Context, m *volume.Manager) error { _, err := m.Rewrap(ctx, "db"); return err },
		"revoke": func(ctx context.Context, m *volume.Manager) error { _, err := m.Revoke(ctx, "db", "test"); return err },
	} {
		for _, reboot := range []bool{false, true} {
			for k := 1; ; k++ {
				n := volumetest.NewNode(t)
				create(t, n, "db")
				path := mount(t, n, "db", docker("a"))
				n.Put(path, "canary", canary)
				n.Keyring.KEK = &kek.Set{Active: next.New(), Previous: []kek.Provider{n.Provider.New()}}
				was := recovery.Fingerprints(n.Keyring.Recipients)
				if name == "rekey" {
					n.Keyring.Recipients = []recovery.Recipient{to}
				}
				p := n.Process()
				p.KillAt(k)
				err := do(t.Context(), n.ManagerOf(p))
				if !p.Dead() {
					if err != nil {
						t.Errorf("%s: %v", name, err)
					}
					if k < 3 {
						t.Errorf("%s: only %d writes", name, k-1)
					}
					break
				}
				if reboot {
					n.Reboot()
				} else if err := n.Manager().Unmount(t.Context(), "db", "a"); err != nil {
					t.Fatal(err)
				}
				if err := n.Manager().Reconcile(t.Context()); err != nil {
					t.Error(err)
				}
				path = mount(t, n, "db", docker("b"))
				if got := n.Get(path, "canary"); got != canary {
					t.Errorf("%s, %d: the data is %q", name, k, got)
				}
				if err := do(t.Context(), n.Manager()); err != nil {
					t.Errorf("%s, %d: again: %v", name, k, err)
				}
				if _, _, slots := generations(t, n, "db"); name == "recovery key" && slots == 3 { // killed between the two; it says which one it is
					if _, err := n.Manager().RemoveRecoveryKey(t.Context(), "db", -1); err != nil {
						t.Error(err)
					}
				}
				if _, _, slots := generations(t, n, "db"); slots != 2 {
					t.Errorf("%s, %d: %d slots", name, k, slots)
				}
				if info, err := n.Manager().Inspect(t.Context(), "db"); name == "rekey" && (err != nil || !slices.Equal(info.PastRecipients, was)) {
					t.Errorf("%s, %d: past recipients %v, want %v", name, k, info.PastRecipients, was)
				}
				if t.Failed() {
					t.Fatalf("%s killed after write %d:\n%s", name, k, strings.Join(n.Log(), "\n"))
				}
			}
		}
	}
}

// F36 F40: an older header put back is refused, by Mount and by everything else that would use it, whatever the record says of state; the explicit
// way opens it and rotates all slots, and until that is done it stays refused.
func TestOlderHeader(t *testing.T) {
	setup := func() *volumetest.Node {
		n := volumetest.NewNode(t)
		create(t, n, "db")
		restore := n.Snapshot(imageOf(n, "db"))
		for range 2 {
			if _, err := n.Manager().Rotate(t.Context(), "db", keyslot.RoleAgent, keyslot.RoleRecovery); err != nil {
				t.Fatal(err)
			}
		}
		restore()
		return n
	}
	refused := func(n *volumetest.Node, what string) {
		t.Helper()
		var older *volume.OlderHeaderError
		_, err := n.Manager().Mount(t.Context(), "db", docker("a"))
		if !errors.Is(err, volume.ErrDamaged) || !errors.As(err, &older) || !strings.Contains(err.Error(), "--accept-older-header") {
			t.Errorf("%s: mount: %v", what, err)
		}
		if _, err := n.Manager().Rotate(t.Context(), "db", keyslot.RoleAgent); !errors.Is(err, volume.ErrOlderHeader) {
			t.Errorf("%s: rotate: %v", what, err)
		}
		if err := n.Manager().Unlockable(t.Context(), "db"); !errors.Is(err, volume.ErrOlderHeader) {
			t.Errorf("%s: unlockable: %v", what, err)
		}
	}
	n := setup()
	refused(n, "restored")
	n.Reboot()
	refused(n, "after a boot")
	r, err := n.Manager().AcceptOlderHeader(t.Context(), "db")
	if err != nil || len(r.Rotated) != 2 || len(r.Warnings) == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if a, rec, slots := generations(t, n, "db"); a <= 5 || rec <= 1 || slots != 2 {
		t.Errorf("generations %d, %d in %d slots", a, rec, slots)
	}
	mount(t, n, "db", docker("a"))
	if again, err := n.Manager().AcceptOlderHeader(t.Context(), "db"); err != nil || again.Changed() {
		t.Errorf("again: %+v, %v", again, err)
	}

	for k := 1; ; k++ {
		n := setup()
		p := n.Process()
		p.KillAt(k)
		_, err := n.ManagerOf(p).AcceptOlderHeader(t.Context(), "db")
		if !p.Dead() {
			if err != nil {
				t.Error(err)
			}
			break
		}
		if _, err := n.Manager().Mount(t.Context(), "db", docker("a")); err == nil {
			// The agent slot, the last one, is published: no slot of the older header may be left but what Recover takes.
			if r, err := n.Manager().Rotate(t.Context(), "db", keyslot.RoleAgent); err != nil || r.Rotated[0].NewGeneration <= 5 {
				t.Errorf("killed after %d: %+v, %v", k, r, err)
			}
			if a, rec, slots := generations(t, n, "db"); a <= 5 || rec <= 1 || slots != 2 {
				t.Errorf("killed after %d: generations %d, %d in %d slots", k, a, rec, slots)
			}
			continue
		}
		refused(n, "killed")
		if _, err := n.Manager().AcceptOlderHeader(t.Context(), "db"); err != nil {
			t.Errorf("killed after %d: %v", k, err)
		}
		mount(t, n, "db", docker("a"))
	}
}

// The old key is needed until the last volume has moved, removed ones included, and one that cannot be read is not known.
func TestKeyUses(t *testing.T) {
	n := volumetest.NewNode(t)
	for _, name := range []string{"a", "b", "c", "gone"} {
		create(t, n, name)
	}
	if err := n.Manager().Remove(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	next := kektest.NewMemory("next")
	n.Keyring.KEK = &kek.Set{Active: next.New(), Previous: []kek.Provider{n.Provider.New()}}
	if r, err := n.Manager().Rewrap(t.Context(), "a"); err != nil || !r.Changed() {
		t.Fatalf("%+v, %v", r, err)
	}
	n.Damage(imageOf(n, "c"))
	uses, err := n.Manager().KeyUses(t.Context())
	if err != nil || len(uses) != 4 {
		t.Fatalf("%+v, %v", uses, err)
	}
	got := map[string]string{}
	for _, u := range uses {
		for _, key := range u.Keys {
			got[u.Volume] += key.ID
		}
		if u.Err != nil {
			got[u.Volume] += "?"
		}
		if u.Removed {
			got[u.Volume] += " removed"
		}
	}
	if got["a"] != "next" || got["b"] != "test" || got["c"] != "?" || got["gone"] != "test removed" {
		t.Errorf("got %v", got)
	}
	if i := slices.IndexFunc(uses, func(u volume.KeyUse) bool { return u.Volume == "a" }); len(uses[i].History) != 2 {
		t.Errorf("history %v", uses[i].History)
	}
	if _, err := n.Manager().Revoke(t.Context(), "b", "next"); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("revoke the active key: %v", err)
	}
}

// backups are those of a test.
type backups struct {
	renewed, destroyed []string
	report             *headerbackup.Report
	err                error
}

func (b *backups) Renew(_ *keyslot.Keyring, device, uuid string) (*headerbackup.Report, error) {
	b.renewed = append(b.renewed, device)
	return b.report, b.err
}

func (b *backups) Ensure(*keyslot.Keyring, string, *header.Header) error { return b.err }

func (b *backups) Restore(*keyslot.Keyring, string, *headerbackup.Image, headerbackup.RestoreOptions) (*headerbackup.Restored, error) {
	return nil, errors.New("not in this test")
}

func (b *backups) Destroy(uuid string) (*headerbackup.Report, error) {
	b.destroyed = append(b.destroyed, uuid)
	return b.report, b.err
}

// F36: after a change of the header its backup is renewed; what could not be destroyed is in the receipt, and the keys are changed all the same.
func TestRotateRenewsBackups(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	b := &backups{report: &headerbackup.Report{Unreached: []headerbackup.Gone{{Name: "old", Dir: "/away", Why: "not mounted"}}}}
	m := volume.New(volume.Options{
		Paths: n.Paths, Storage: n.Process().Storage(), Backups: b, Now: n.Now,
		Keyring: func(context.Context) (*keyslot.Keyring, error) { return n.Keyring, nil },
	})
	r, err := m.Rotate(t.Context(), "db", keyslot.RoleAgent)
	if err != nil || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "/away") || len(b.renewed) != 1 || b.renewed[0] != imageOf(n, "db") {
		t.Errorf("%+v, %v, renewed %v", r, err, b.renewed)
	}
	b.report, b.err = nil, errors.New("disk full")
	if r, err = m.Rotate(t.Context(), "db", keyslot.RoleAgent); err != nil || len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "disk full") {
		t.Errorf("%+v, %v", r, err)
	}
}

// Of two slots the second one cannot be changed: the first one is all the same, and so its backup is renewed and its receipt kept. F36
func TestRotateHalf(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	b := &backups{report: &headerbackup.Report{}}
	m := volume.New(volume.Options{
		Paths: n.Paths, Storage: n.Process().Storage(), Backups: b, Now: n.Now,
		Keyring: func(context.Context) (*keyslot.Keyring, error) {
			k := *n.Keyring
			k.Recipients = nil
			return &k, nil
		},
	})
	r, err := m.Rotate(t.Context(), "db", keyslot.RoleAgent, keyslot.RoleRecovery)
	if !errors.Is(err, volume.ErrNoRecovery) || len(r.Rotated) != 1 || !r.Changed() || r.Ended.IsZero() || len(b.renewed) != 1 {
		t.Errorf("%+v, %v, renewed %v", r, err, b.renewed)
	}
	if kept, _ := filepath.Glob(filepath.Join(n.Paths.State, "receipts", r.UUID, "*-rotate.json")); len(kept) != 1 {
		t.Errorf("receipts %v", kept)
	}
	if a, rec, slots := generations(t, n, "db"); a != 2 || rec != 1 || slots != 2 {
		t.Errorf("the record has generations %d, %d in %d slots", a, rec, slots)
	}
}

func TestRotateRefuses(t *testing.T) {
	n := volumetest.NewNode(t)
	if _, err := n.Manager().Rotate(t.Context(), "db", keyslot.RoleAgent); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("no volume: %v", err)
	}
	if _, err := n.Manager().Rotate(t.Context(), "../db", keyslot.RoleAgent); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("no name: %v", err)
	}
	create(t, n, "db")
	if _, err := n.Manager().Rotate(t.Context(), "db"); !errors.Is(err, volume.ErrInvalid) {
		t.Errorf("no role: %v", err)
	}
	n.Provider.Fail(kek.ErrUnavailable)
	if _, err := n.Manager().Rotate(t.Context(), "db", keyslot.RoleAgent); !errors.Is(err, volume.ErrLocked) {
		t.Errorf("provider down: %v", err)
	}
	n.Provider.Fail(nil)
	crashed := volumetest.NewNode(t)
	crash(t, crashed, "create.formatted")
	if _, err := crashed.Manager().Rotate(t.Context(), "db", keyslot.RoleAgent); !errors.Is(err, volume.ErrUnfinished) {
		t.Errorf("unfinished: %v", err)
	}
}
