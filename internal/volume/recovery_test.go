// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/recovery/typable"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
	"github.com/voluks/voluks/keyslot"
)

// The key of the node is gone: the identity alone mounts a volume, and gives it an agent slot that the node's new key opens. F29 F39
func TestKeyLost(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	n.Put(mount(t, n, "db", docker("a")), "canary", canary)
	if err := n.Manager().Unmount(t.Context(), "db", "a"); err != nil {
		t.Fatal(err)
	}
	keys := n.Keyring
	n.Keyring = &keyslot.Keyring{KEK: kektest.NewMemory("next").Set(), Recipients: keys.Recipients}
	if _, err := n.Manager().Mount(t.Context(), "db", docker("a")); !errors.Is(err, volume.ErrLocked) {
		t.Errorf("without the identity: %v", err)
	}
	_, n.Lent = volumetest.Identity(t)
	if _, err := n.Manager().Mount(t.Context(), "db", docker("a")); !errors.Is(err, volume.ErrLocked) || !errors.Is(err, recovery.ErrWrongIdentity) {
		t.Errorf("with another identity: %v", err)
	}

	n.Lent, n.Keyring = n.Identity, nil // no key of the node is asked for
	path := mount(t, n, "db", docker("a"))
	if got := n.Get(path, "canary"); got != canary {
		t.Errorf("the data is %q", got)
	}
	n.Keyring = &keyslot.Keyring{KEK: kektest.NewMemory("next").Set(), Recipients: keys.Recipients}
	r, err := n.Manager().Rotate(t.Context(), "db", keyslot.RoleAgent, keyslot.RoleRecovery)
	if err != nil || len(r.Rotated) != 2 || !r.Rotated[0].Rescued || r.Rotated[1].Rescued {
		t.Errorf("%+v, %v", r, err)
	}
	n.Lent = nil
	n.Reboot()
	if got := n.Get(mount(t, n, "db", docker("a")), "canary"); got != canary {
		t.Errorf("the data is %q", got)
	}
	if _, _, slots := generations(t, n, "db"); slots != 2 {
		t.Errorf("%d slots", slots)
	}
}

// A process that gives a volume a new agent slot by the identity is killed after any of its writes: the identity opens the volume, and the next run ends
// with a node that does. F29 F31 F32
func TestKillRescue(t *testing.T) {
	for k := 1; ; k++ {
		n := volumetest.NewNode(t)
		create(t, n, "db")
		n.Put(mount(t, n, "db", docker("a")), "canary", canary)
		n.Keyring = &keyslot.Keyring{KEK: kektest.NewMemory("next").Set(), Recipients: n.Keyring.Recipients}
		n.Lent = n.Identity
		p := n.Process()
		p.KillAt(k)
		_, err := n.ManagerOf(p).Rotate(t.Context(), "db", keyslot.RoleAgent)
		if !p.Dead() {
			if err != nil || k < 6 {
				t.Errorf("%d writes, %v", k-1, err)
			}
			break
		}
		n.Reboot()
		if err := n.Manager().Reconcile(t.Context()); err != nil {
			t.Error(err)
		}
		mount(t, n, "db", docker("a"))
		if r, err := n.Manager().Rotate(t.Context(), "db", keyslot.RoleAgent); err != nil || len(r.Rotated) != 1 {
			t.Errorf("killed after %d: again: %+v, %v", k, r, err)
		}
		n.Reboot()
		n.Lent = nil
		if got := n.Get(mount(t, n, "db", docker("a")), "canary"); got != canary {
			t.Errorf("killed after %d: the data is %q", k, got)
		}
		if _, _, slots := generations(t, n, "db"); slots != 2 {
			t.Errorf("killed after %d: %d slots", k, slots)
		}
	}
}

// The key of the node is gone, and the header is an older one: with the identity it is accepted, and stays refused until all of its slots are rotated. F36
func TestOlderHeaderAndKeyLost(t *testing.T) {
	for k := 1; ; k++ {
		n := volumetest.NewNode(t)
		create(t, n, "db")
		n.Put(mount(t, n, "db", docker("a")), "canary", canary)
		if err := n.Manager().Unmount(t.Context(), "db", "a"); err != nil {
			t.Fatal(err)
		}
		restore := n.Snapshot(imageOf(n, "db"))
		if _, err := n.Manager().Rotate(t.Context(), "db", keyslot.RoleAgent); err != nil {
			t.Fatal(err)
		}
		restore()
		n.Keyring = &keyslot.Keyring{KEK: kektest.NewMemory("next").Set(), Recipients: n.Keyring.Recipients}
		if _, err := n.Manager().AcceptOlderHeader(t.Context(), "db"); !errors.Is(err, volume.ErrLocked) {
			t.Errorf("without the identity: %v", err)
		}
		n.Lent = n.Identity
		p := n.Process()
		p.KillAt(k)
		_, err := n.ManagerOf(p).AcceptOlderHeader(t.Context(), "db")
		if p.Dead() {
			if _, err := n.Manager().Mount(t.Context(), "db", docker("a")); err == nil {
				// The last rotation is published.
				if _, err := n.Manager().Rotate(t.Context(), "db", keyslot.RoleAgent); err != nil {
					t.Errorf("killed after %d: %v", k, err)
				}
			} else if _, err := n.Manager().AcceptOlderHeader(t.Context(), "db"); err != nil {
				t.Errorf("killed after %d: %v", k, err)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		n.Lent = nil
		n.Reboot()
		if got := n.Get(mount(t, n, "db", docker("a")), "canary"); got != canary {
			t.Errorf("killed after %d: the data is %q", k, got)
		}
		if _, recovery, slots := generations(t, n, "db"); slots != 2 || recovery == 1 {
			t.Errorf("killed after %d: %d slots, the recovery slot is of generation %d", k, slots, recovery)
		}
		if !p.Dead() {
			break
		}
	}
}

// The drill is written down; the status says when it is overdue, and what a change of recipients means for it.
func TestDrill(t *testing.T) {
	n := volumetest.NewNode(t)
	n.DrillEvery = 180 * 24 * time.Hour
	create(t, n, "db")
	warned := func(want string) {
		t.Helper()
		info, err := n.Manager().Inspect(t.Context(), "db")
		if err != nil {
			t.Fatal(err)
		}
		all, err := n.Manager().List(t.Context())
		if err != nil || len(all) != 1 || !slices.Equal(all[0].Warnings, info.Warnings) {
			t.Errorf("listed %+v, %v", all, err)
		}
		if want == "" && len(info.Warnings) > 0 || want != "" && (len(info.Warnings) != 1 || !strings.Contains(info.Warnings[0], want)) {
			t.Errorf("warnings %q, want %q", info.Warnings, want)
		}
	}
	warned("")
	n.Sleep(n.DrillEvery)
	warned("never tried")

	if _, err := n.Manager().VerifyRecovery(t.Context(), "db"); !errors.Is(err, volume.ErrLocked) {
		t.Errorf("without identity: %v", err)
	}
	_, n.Lent = volumetest.Identity(t)
	if _, err := n.Manager().VerifyRecovery(t.Context(), "db"); !errors.Is(err, volume.ErrLocked) {
		t.Errorf("another identity: %v", err)
	}
	warned("never tried")
	n.Lent = append(n.Lent, n.Identity...)
	n.Provider.Fail(kek.ErrUnavailable) // nobody asks it
	r, err := n.Manager().VerifyRecovery(t.Context(), "db")
	if err != nil || r.Verified == nil || r.Verified.Slot != 30 || !slices.Equal(r.Verified.Identities, recovery.Fingerprints(n.Keyring.Recipients)) || r.Changed() {
		t.Fatalf("%+v, %v", r.Verified, err)
	}
	n.Provider.Fail(nil)
	warned("")
	n.Sleep(n.DrillEvery - time.Minute)
	warned("")
	n.Sleep(time.Minute)
	warned("was last tried on " + r.Verified.At.Format(time.DateOnly))

	if _, err := n.Manager().VerifyRecovery(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Manager().Rotate(t.Context(), "db", keyslot.RoleRecovery); err != nil {
		t.Fatal(err)
	}
	warned("") // sealed to the same identity
	recipient, identity := volumetest.Identity(t)
	n.Keyring.Recipients = []recovery.Recipient{recipient}
	if _, err := n.Manager().Rekey(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	warned("was replaced")
	n.Lent = identity
	if _, err := n.Manager().VerifyRecovery(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	warned("")
	n.DrillEvery = 0
	n.Sleep(10000 * time.Hour)
	warned("")

	uses, err := n.Manager().KeyUses(t.Context())
	if err != nil || len(uses) != 1 || !slices.Equal(uses[0].Recipients, []string{recipient.Fingerprint()}) {
		t.Errorf("%+v, %v", uses, err)
	}
}

// A volume without recovery slot is not drilled, and gets one when there are recipients.
func TestNoRecoverySlot(t *testing.T) {
	n := volumetest.NewNode(t)
	recipients := n.Keyring.Recipients
	n.Keyring.Recipients, n.Keyring.NoRecovery, n.DrillEvery = nil, true, time.Hour
	create(t, n, "db")
	n.Sleep(2 * time.Hour)
	if info, err := n.Manager().Inspect(t.Context(), "db"); err != nil || len(info.Warnings) > 0 {
		t.Errorf("%+v, %v", info.Warnings, err)
	}
	n.Lent = n.Identity
	if _, err := n.Manager().VerifyRecovery(t.Context(), "db"); !errors.Is(err, volume.ErrNoRecovery) {
		t.Errorf("%v", err)
	}
	if _, err := n.Manager().Rekey(t.Context(), "db"); !errors.Is(err, volume.ErrNoRecovery) {
		t.Errorf("%v", err)
	}
	n.Keyring.Recipients, n.Keyring.NoRecovery = recipients, false
	if r, err := n.Manager().Rekey(t.Context(), "db"); err != nil || !r.Changed() {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := n.Manager().VerifyRecovery(t.Context(), "db"); err != nil {
		t.Error(err)
	}
}

// Recovery keys that are typed, on a volume that is mounted.
func TestRecoveryKeys(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	mount(t, n, "db", docker("a"))
	for i := range 2 {
		key, err := typable.Generate()
		if err != nil {
			t.Fatal(err)
		}
		defer key.Wipe()
		r, err := n.Manager().AddRecoveryKey(t.Context(), "db", key)
		if err != nil || len(r.Rotated) != 1 || r.Rotated[0].NewSlot != 29-i || r.Rotated[0].Role != "systemd-recovery" {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if _, err := n.Manager().RemoveRecoveryKey(t.Context(), "db", -1); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "[28 29]") {
		t.Errorf("which of two: %v", err)
	}
	for _, slot := range []int{31, 30, 0} {
		if _, err := n.Manager().RemoveRecoveryKey(t.Context(), "db", slot); !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("slot %d: %v", slot, err)
		}
	}
	for _, slot := range []int{29, -1} {
		if r, err := n.Manager().RemoveRecoveryKey(t.Context(), "db", slot); err != nil || !r.Changed() {
			t.Errorf("%+v, %v", r, err)
		}
	}
	if _, _, slots := generations(t, n, "db"); slots != 2 {
		t.Errorf("%d slots", slots)
	}
}

// A removal that was killed after any of its writes leaves, when it is repeated, no backup in which the removed key still has its slot. F36
func TestKilledRemovalOfARecoveryKeyLeavesNoBackup(t *testing.T) {
	typed, err := typable.Generate()
	if err != nil {
		t.Fatal(err)
	}
	defer typed.Wipe()
	for k := 1; ; k++ {
		n := volumetest.NewNode(t)
		id := create(t, n, "db").UUID
		if _, err := n.Manager().AddRecoveryKey(t.Context(), "db", typed); err != nil {
			t.Fatal(err)
		}
		p := n.Process()
		p.KillAt(k)
		_, err := n.ManagerOf(p).RemoveRecoveryKey(t.Context(), "db", -1)
		if !p.Dead() {
			if err != nil || k < 4 {
				t.Errorf("%d writes, %v", k-1, err)
			}
			return
		}
		if _, err := n.Manager().RemoveRecoveryKey(t.Context(), "db", -1); err != nil && !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%d: again: %v", k, err)
		}
		for _, image := range n.Backups(id) {
			if slots := keyslot.TypedSlots(image.Header); len(slots) > 0 {
				t.Fatalf("killed after write %d: a backup with the recovery key in slots %v is left:\n%s", k, slots, strings.Join(n.Log(), "\n"))
			}
		}
	}
}
