// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/kek/file"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
)

// changeKeys is what a child does for an order that is about keys.
func (o order) changeKeys(ctx context.Context, m *volume.Manager) (err error) {
	switch o.Op {
	case volume.ActionRotate:
		_, err = m.Rotate(ctx, o.Name, o.Role)
	case volume.ActionRewrap:
		_, err = m.Rewrap(ctx, o.Name)
	case volume.ActionRevoke:
		_, err = m.Revoke(ctx, o.Name, o.KeyID)
	case volume.ActionRekey:
		_, err = m.Rekey(ctx, o.Name)
	case volume.ActionAdd:
		err = addRecoveryKey(ctx, m, o.Name)
	case volume.ActionRemove:
		_, err = m.RemoveRecoveryKey(ctx, o.Name, -1)
	default:
		err = fmt.Errorf("no operation %q", o.Op)
	}
	return err
}

// twoKeys makes a second master key. Which of them wraps is r.active.
func (r *real) twoKeys() {
	r.t.Helper()
	if _, err := file.Generate(r.paths.MasterKey() + ".next"); err != nil {
		r.t.Fatal(err)
	}
}

// keyOrders are the operations on the keys of db. begin makes that there is something to do for the next one.
func (r *real) keyOrders() (orders []order, begin func(*order)) {
	for _, role := range []string{keyslot.RoleAgent, keyslot.RoleRecovery} {
		orders = append(orders, order{Op: volume.ActionRotate, Name: "db", Role: role})
	}
	orders = append(orders, order{Op: volume.ActionRewrap, Name: "db"}, order{Op: volume.ActionRevoke, Name: "db"})
	return orders, func(o *order) {
		r.t.Helper()
		if o.Op == volume.ActionRotate {
			return
		}
		r.active = 1 - r.active // the other key wraps from now on, and the one that did is a previous one
		k, err := r.keyring(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		o.KeyID = k.KEK.Previous[0].Ref().ID
	}
}

// opens proves that the node opens db with what it holds.
func (r *real) opens() error {
	info, err := r.manager().Inspect(r.t.Context(), "db")
	if err != nil {
		return err
	}
	k, err := r.keyring(r.t.Context())
	if err != nil {
		return err
	}
	c := r.container()
	slot, key, err := keyslot.Unlock(r.t.Context(), c, k)
	if err != nil {
		return err
	}
	defer key.Wipe()
	if err := keyslot.Prove(c, slot, key); err != nil {
		return err
	}
	return r.manager().Unlockable(r.t.Context(), info.Name)
}

// container is db by its one door.
func (r *real) container() volume.Container {
	storage := volume.NewStorage(volume.StorageOptions{Log: r.log})
	path, err := storage.Backings.At(volume.Place{Kind: volume.BackingImage, Dir: r.paths.VolumeDir("db")}).Door(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return storage.Containers.At(path)
}

// ordered checks that nothing of the last operation is left to be done: two slots, three tokens, one header backup.
func (r *real) ordered() error {
	h, err := r.container().Header()
	if err != nil {
		return err
	}
	s, err := keyslot.State(h)
	if err != nil {
		return err
	}
	if len(h.Keyslots) != 2 || len(h.Tokens) != 3 || s.Interrupted() {
		return fmt.Errorf("%d slots, %d tokens, interrupted %t", len(h.Keyslots), len(h.Tokens), s.Interrupted())
	}
	backups, err := filepath.Glob(filepath.Join(r.paths.State, "backups", h.UUID, "*.age*"))
	if err != nil || len(backups) != 1 || !strings.HasPrefix(filepath.Base(backups[0]), fmt.Sprintf("g%08d-", s.Generation())) {
		return fmt.Errorf("at generation %d the backups are %v, %w", s.Generation(), backups, err)
	}
	return nil
}

// kills are points at which a process was killed already.
type kills map[string]bool

// add returns those of an operation's points that are worth it. Backups are renewed by the same steps after each operation, which one shows; and where an
// operation is, up to its end, a rotation that others of the table are too, one point of that.
func (k kills) add(points []string, rotates bool) (all []string) {
	for _, point := range points {
		same := strings.HasPrefix(point, "backup.") || rotates && strings.HasPrefix(point, "rotate.") && point != "rotate.published"
		if !same || !k[point] {
			all = append(all, point)
		}
		k[point] = true
	}
	return all
}

// A process that changes keys of a mounted volume is killed at each named point: in the header, between the header, the record and the backups. The volume
// opens with what the node holds, and the next run ends clean. F29 F31 F32 F36
func TestGuestKillKeys(t *testing.T) {
	r := newReal(t)
	r.twoKeys()
	r.create("db")
	path := r.mount("db", "a")
	r.put(path, canary)
	orders, begin := r.keyOrders()
	killed := kills{}
	for i := range orders {
		o := &orders[i]
		do := func(m *volume.Manager) error { return o.changeKeys(t.Context(), m) }
		begin(o)
		points := r.points(do)
		if least := map[string]int{volume.ActionRewrap: 6}; len(points) < max(least[o.Op], 4) || !slices.Contains(points, o.Op+".recorded") {
			t.Errorf("%s: only %v", o.Op, points)
		}
		for i, point := range killed.add(points, o.Op == volume.ActionRevoke) {
			t.Run(strings.Trim(o.Op+" "+o.Role, " ")+"/"+point, func(t *testing.T) {
				defer r.in(t)()
				begin(o)
				r.kill(point, *o)
				if err := r.opens(); err != nil {
					t.Errorf("killed: %v", err)
				}
				if i%4 == 0 { // not only the proof, but the way that everybody takes
					r.unmount("db", "a")
					path = r.mount("db", "a")
				}
				if err := do(r.manager()); err != nil {
					t.Errorf("again: %v", err)
				}
				if err := errors.Join(r.opens(), r.ordered()); err != nil {
					t.Errorf("again: %v", err)
				}
				r.get(path, canary)
			})
		}
	}
	r.unmount("db", "a")
	r.clean()
}

// Power cuts at random flushes of the whole node: the image with the header, the record and the backups on ext4, which makes the order of their writes its
// own affair. After the boot the volume mounts, nothing calls its header an older one, and the next run ends clean. F29 F32 F40
//
// A cut here is at a flush that the disk was told, so it shows a missing fsync between two of our files; what is torn within a write, TestRandomPowerCuts of
// package keyslot shows.
func TestGuestPowerCutKeys(t *testing.T) {
	const times = 24
	random, seed := testenv.Random(t)

	r := newRecorded(t, 56<<20)
	r.twoKeys()
	r.create("db", "size=16M")
	path := r.mount("db", "a")
	r.put(path, canary)
	r.unmount("db", "a")
	r.mount("db", "a")
	r.recorder.Mark(t, "ready")
	orders, begin := r.keyOrders()
	orders[2], orders[3] = orders[3], orders[2] // so that a key is active at the end that opened it before, too
	for i := range orders {
		begin(&orders[i])
		if err := orders[i].changeKeys(t.Context(), r.manager()); err != nil {
			t.Fatal(err)
		}
		r.recorder.Mark(t, fmt.Sprint(i))
	}
	promised := r.inspect("db")
	r.unmount("db", "a")
	r.detach()

	disk, writes := r.recorder.After(t, "ready")
	var flushes []int // indices
	for i, w := range writes {
		if w.Flush {
			flushes = append(flushes, i)
		}
	}
	if len(flushes) < times {
		t.Fatalf("only %d flushes", len(flushes))
	}
	cuts := random.Perm(len(flushes))[:times]
	slices.Sort(cuts)
	last := fmt.Sprint(len(orders) - 1)
	done := 0
	for _, cut := range cuts {
		for ; done <= flushes[cut]; done++ {
			copy(disk[writes[done].From:], writes[done].Content)
		}
		note := writes[flushes[cut]].Note
		at := fmt.Sprintf("seed %d, flush %d of %d, after %q", seed, cut, len(flushes), note)
		func() {
			r.boot(disk)
			defer r.detach()
			if err := r.manager().Reconcile(t.Context()); err != nil {
				t.Errorf("%s: reconcile: %v", at, err)
			}
			path, err := r.manager().Mount(t.Context(), "db", docker("b"))
			if err != nil {
				t.Errorf("%s: %v", at, err)
				return
			}
			r.get(path, canary)
			if note == last {
				if info := r.inspect("db"); fmt.Sprint(info.Slots) != fmt.Sprint(promised.Slots) {
					t.Errorf("%s: slots %+v, promised were %+v", at, info.Slots, promised.Slots)
				}
			}
			if _, err := r.manager().Rotate(t.Context(), "db", keyslot.RoleAgent); err != nil {
				t.Errorf("%s: rotate: %v", at, err)
			} else if err := errors.Join(r.opens(), r.ordered()); err != nil {
				t.Errorf("%s: %v", at, err)
			}
			r.get(path, canary)
			r.unmount("db", "b")
		}()
	}
	t.Logf("%d power cuts at %d flushes", len(cuts), len(flushes))
}

// Rotation while fio writes on the mounted volume: what fio has written reads back as it wrote it, now and after the volume was closed and opened, and files
// that nobody writes stay as they were. F31
func TestGuestRotateUnderIO(t *testing.T) {
	r := newReal(t)
	r.create("db")
	path := r.mount("db", "a")
	still := make([]byte, 4<<20)
	rand.Read(still)
	if err := os.WriteFile(filepath.Join(path, "still"), still, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--name=busy", "--directory=" + path, "--rw=randwrite", "--bs=4k", "--size=16M", "--ioengine=psync", "--direct=1", "--fsync=32",
		"--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--randseed=7", "--rate_iops=600"}
	fio := exec.CommandContext(t.Context(), "fio", append(args, "--do_verify=1")...)
	var out bytes.Buffer
	fio.Stdout, fio.Stderr = &out, &out
	if err := fio.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- fio.Wait() }()
	rotations := 0
	for running := true; running; {
		select {
		case err := <-ended:
			running = false
			if err != nil || rotations < 2 {
				r.unmount("db", "a")
				t.Fatalf("fio ended after %d rotations: %v\n%s", rotations, err, out.String())
			}
			continue
		default:
		}
		if _, err := r.manager().Rotate(t.Context(), "db", []string{keyslot.RoleAgent, keyslot.RoleRecovery}[rotations%2]); err != nil {
			t.Fatal(err)
		}
		rotations++
	}
	t.Logf("%d rotations under fio", rotations)
	busy, err := os.ReadFile(filepath.Join(path, "busy.0.0"))
	if err != nil {
		t.Fatal(err)
	}
	r.unmount("db", "a")
	r.clean()
	path = r.mount("db", "a")
	for name, was := range map[string][]byte{"still": still, "busy.0.0": busy} {
		if is, err := os.ReadFile(filepath.Join(path, name)); err != nil || sha256.Sum256(is) != sha256.Sum256(was) {
			t.Errorf("%s is not what it was: %v", name, err)
		}
	}
	run(t, "fio", append(args, "--verify_only=1")...)
	r.unmount("db", "a")
	r.clean()
}
