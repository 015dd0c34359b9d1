// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/voluks/voluks/luks/header"
)

func TestRestore(t *testing.T) {
	n, v := newNode(t), newVolume(t, testUUID)
	b := take(t, n, v)
	i := openBackup(t, n, b)
	for name, damage := range map[string]func(){
		"everything is gone": func() { v.write(t, 0, make([]byte, 16<<20)) },
		"something else":     func() { v.write(t, 0, bytes.Repeat([]byte("a partition table "), 100_000)) },
		"metadata gone":      func() { v.write(t, 0, make([]byte, 128<<10)) },
		"first copy gone":    func() { v.write(t, 0, make([]byte, 64<<10)) },
		"nothing wrong":      func() {},
	} {
		damage()
		r, err := n.Restore(v.open(), i, RestoreOptions{Expect: v.expect(), KnownGeneration: 1})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !v.opens(31) || !v.opens(30) {
			t.Fatalf("%s: the restored header does not open", name)
		}
		h, err := v.Header()
		must(t, err)
		if h.Damage() != nil || h.Epoch != r.Epoch || r.Generation != 1 || r.Older != nil || r.Saved != nil {
			t.Errorf("%s: %+v, damage %v, epoch %d", name, r, h.Damage(), h.Epoch)
		}
		if rest := v.bytes(t)[used(h) : 16<<20]; len(bytes.Trim(rest, "\x00")) != 0 {
			t.Errorf("%s: something is left behind the slots", name)
		}
	}
}

// F36, F40: an older backup would revive a retired key.
func TestOlder(t *testing.T) {
	n, v := newNode(t), newVolume(t, testUUID)
	i := openBackup(t, n, take(t, n, v))
	retired := v.keys[31]
	v.rotate(t, 31, 29)
	before := v.bytes(t)
	var older *OlderError
	_, err := n.Restore(v.open(), i, RestoreOptions{Expect: v.expect()})
	if !errors.As(err, &older) || !errors.Is(err, ErrOlder) || older.Generation != 1 || older.KnownGeneration != 2 {
		t.Fatalf("error %v", err)
	}
	if !bytes.Equal(before, v.bytes(t)) {
		t.Fatal("refused, and written")
	}
	// With nothing left on the device the record's word counts.
	v.write(t, 0, make([]byte, 1<<20))
	_, err = n.Restore(v.open(), i, RestoreOptions{Expect: v.expect(), KnownGeneration: 2})
	wantError(t, err, ErrOlder)
	v.write(t, 0, before)

	r, err := n.Restore(v.open(), i, RestoreOptions{Expect: v.expect(), KnownGeneration: 2, AcceptOlder: true})
	must(t, err)
	if r.Older == nil || r.Saved == nil || r.Saved.Name.Generation != 2 || r.Epoch <= r.Saved.Name.Epoch {
		t.Fatalf("%+v", r)
	}
	if v.TestSlot(31, retired) != nil || v.opens(29) {
		t.Error("the header of the backup is not there")
	}
	// What was overwritten can be had back.
	_, err = n.Restore(v.open(), openBackup(t, n, r.Saved), RestoreOptions{Expect: v.expect(), KnownGeneration: 2})
	must(t, err)
	if !v.opens(29) || v.TestSlot(31, retired) == nil {
		t.Error("the saved header is not there")
	}
}

// The same generation, but metadata that were written later: a re-wrapped token, say.
func TestOlderByEpoch(t *testing.T) {
	n, v := newNode(t), newVolume(t, testUUID)
	i := openBackup(t, n, take(t, n, v))
	_, err := v.SetToken(1, []byte(`{"type":"other","keyslots":["30"]}`))
	must(t, err)
	_, err = n.Restore(v.open(), i, RestoreOptions{Expect: v.expect()})
	wantError(t, err, ErrOlder)
}

func TestNotRestored(t *testing.T) {
	n, v := newNode(t), newVolume(t, testUUID)
	b := take(t, n, v)
	i := openBackup(t, n, b)
	other := newVolume(t, otherUUID)
	null := func(m map[string]any) {
		m["segments"].(map[string]any)["0"].(map[string]any)["encryption"] = "cipher_null-ecb"
	}
	forged, err := newImage(withJSON(t, i.raw, null), i.size)
	must(t, err)
	var strict *header.StrictError
	last := bytes.Clone(v.bytes(t)[:headSize])
	setEpoch(last, 64<<10, math.MaxUint64)

	for name, c := range map[string]struct {
		open  Opener
		image *Image
		o     RestoreOptions
		check func(error) bool
	}{
		"backup of another volume": {v.open(), i, RestoreOptions{Expect: header.Expect{UUID: otherUUID}}, is(ErrOther)},
		"no volume named":          {v.open(), i, RestoreOptions{}, is(ErrOther)},
		"another volume there":     {other.open(), i, RestoreOptions{Expect: v.expect(), AcceptOlder: true, DiscardPresent: true}, is(ErrOther)},
		"null cipher":              {v.open(), forged, RestoreOptions{Expect: v.expect()}, func(err error) bool { return errors.As(err, &strict) }}, // F48
		"in re-encryption": {(&memory{head: reencrypting(t, v.bytes(t)[:headSize]), size: 17 << 20}).open, i,
			RestoreOptions{Expect: v.expect(), AcceptOlder: true, DiscardPresent: true}, is(ErrReencrypting)},
		"LUKS1":          {(&memory{head: append([]byte("LUKS\xba\xbe\x00\x01"), make([]byte, 1<<20)...), size: 17 << 20}).open, i, RestoreOptions{Expect: v.expect()}, is(header.ErrLUKS1)},
		"cannot be read": {func(bool) (Device, error) { return nil, errPower }, i, RestoreOptions{Expect: v.expect()}, is(errPower)},
		"too small":      {(&memory{head: make([]byte, 1<<20), size: 1 << 20}).open, i, RestoreOptions{Expect: v.expect()}, is(ErrUnusual)},
		"last epoch":     {(&memory{head: last, size: 17 << 20}).open, i, RestoreOptions{Expect: v.expect(), AcceptOlder: true}, is(ErrUnusual)},
		"cannot be saved": {(&memory{head: withJSON(t, v.bytes(t)[:headSize], slotArea("4096", "4096")), size: 17 << 20}).open, i,
			RestoreOptions{Expect: v.expect(), AcceptOlder: true}, is(ErrUnusual)},
	} {
		before, beforeOther := v.bytes(t), other.bytes(t)
		r, err := n.Restore(c.open, c.image, c.o)
		if !c.check(err) || r != nil {
			t.Errorf("%s: %+v, error %v", name, r, err)
		}
		if !bytes.Equal(before, v.bytes(t)) || !bytes.Equal(beforeOther, other.bytes(t)) {
			t.Fatalf("%s: refused, and written", name)
		}
	}
	// Nobody could open a backup of what is there: going on must be said.
	o := n.o
	o.Recipients = nil
	v.rotate(t, 31, 29)
	_, err = New(o).Restore(v.open(), i, RestoreOptions{Expect: v.expect(), AcceptOlder: true})
	if err == nil || !v.opens(29) {
		t.Fatalf("error %v", err)
	}
	_, err = New(o).Restore(v.open(), i, RestoreOptions{Expect: v.expect(), AcceptOlder: true, DiscardPresent: true})
	must(t, err)
	if !v.opens(31) {
		t.Error("not restored")
	}
	if _, err := os.Stat(b.Copies[0].Path); err != nil {
		t.Error("the backup was used up")
	}
}

func is(want error) func(error) bool {
	return func(err error) bool { return errors.Is(err, want) }
}

// F29: the power goes at every write, and the medium has any of what a disk may have by then. If the header was good before, some copy of the metadata is good
// after it. If that is the restored one, all its slots open; else those that do not lie where a restored one comes. Restore, called again, ends as if
// nothing had happened.
func TestPowerCutAtEveryWrite(t *testing.T) {
	n, v := newNode(t), newVolume(t, testUUID)
	i := openBackup(t, n, take(t, n, v))
	v.rotate(t, 31, 29)
	apart := v.bytes(t)[:headSize]
	v.rotate(t, 29, 28) // lies where slot 31 was
	together := v.bytes(t)[:headSize]
	h, err := v.Header()
	must(t, err)
	overlap := false
	for _, k := range h.Keyslots {
		overlap = overlap || k.Area.Offset == i.Header.Keyslots[31].Area.Offset
	}
	if !overlap {
		t.Fatal("no slot lies where a restored one comes: the test does not test it")
	}
	gone := make([]byte, headSize)
	torn := bytes.Clone(together)
	clear(torn[:4096])

	// Backing up what is there has tests of its own, and would cost most of the time here.
	quiet := n.o
	quiet.Recipients = nil
	n.use(quiet)
	for name, c := range map[string]struct {
		head  []byte
		slots []int // that open as long as the header is the old one
	}{"apart": {apart, []int{30, 29}}, "together": {together, []int{30}}, "first copy gone": {torn, []int{30}}, "gone": {gone, nil}} {
		reference := &memory{head: bytes.Clone(c.head), size: 17 << 20}
		o := RestoreOptions{Expect: v.expect(), AcceptOlder: true, DiscardPresent: true}
		_, err := n.Restore(reference.open, i, o)
		must(t, err)
		if reference.writes < 4 {
			t.Fatalf("%s: only %d writes", name, reference.writes)
		}
		opensAs(t, v, reference, 31, 30)
		seen := map[[sha256.Size]byte]bool{} // many cuts leave the same
		for at := 1; at <= reference.writes; at++ {
			for how, cut := range cuts {
				t.Run(fmt.Sprintf("%s/write %d of %d/%s", name, at, reference.writes, how), func(t *testing.T) {
					d := &memory{head: bytes.Clone(c.head), size: 17 << 20, cutAt: at, cut: cut}
					if _, err := n.Restore(d.open, i, o); !errors.Is(err, errPower) {
						t.Fatalf("error %v", err)
					}
					d.cutAt, d.off, d.pending = 0, false, nil
					if state := sha256.Sum256(d.head); c.slots != nil && !seen[state] {
						stillOpens(t, v, d, i, c.slots)
						seen[state] = true
					}
					_, err := n.Restore(d.open, i, o)
					must(t, err)
					if !bytes.Equal(d.head[128<<10:], reference.head[128<<10:]) {
						t.Error("in the end the slots are not those of a restore without a power cut")
					}
					if h, err := header.Read(d, d.size); err != nil || h.Damage() != nil || !sameMetadata(h, i.Header) {
						t.Errorf("in the end the metadata are not those of the backup: %v", err)
					}
				})
			}
		}
	}
}

func stillOpens(t *testing.T, v *volume, d *memory, i *Image, old []int) {
	t.Helper()
	h, err := header.Read(d, d.size)
	if err != nil {
		t.Fatalf("no copy of the metadata is good: %v", err)
	}
	if sameMetadata(h, i.Header) {
		opensAs(t, v, d, 31, 30)
	} else {
		opensAs(t, v, d, old...)
	}
}

// opensAs puts the medium into a file and asks libcryptsetup.
func opensAs(t *testing.T, v *volume, d *memory, slots ...int) {
	t.Helper()
	must(t, os.Truncate(v.Path(), 0))
	must(t, os.Truncate(v.Path(), 17<<20))
	v.write(t, 0, d.head)
	for _, slot := range slots {
		if err := v.TestSlot(slot, v.keys[slot]); err != nil {
			t.Fatalf("slot %d: %v", slot, err)
		}
	}
}
