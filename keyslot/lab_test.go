// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// A program is something that works on a container and can be made to die.
type program struct {
	c keyslot.Container
	// dieAfter lets the program end right after its write number k, from 1: the write takes place,
	// nothing after it does. failAt lets write number k fail without effect.
	dieAfter, failAt func(k int)
	// steps is the number of writes so far.
	steps func() int
	// path is that of the real thing.
	path string
}

// A lab makes one container and starts programs on it.
type lab struct {
	name string
	// blank makes a disk and returns what starts a program on it.
	blank func(t testing.TB) (start func() program)
	// ways of cutting an operation short that are enumerated. For the real thing a write that fails
	// is left out: it leaves what the death before it leaves, and it takes long.
	ways []string
}

const (
	diesAfter = "dies after"
	failsAt   = "fails at"
)

// labs are the real thing, on image files, and the fake that stands for it elsewhere. Tests that are
// about the contract of Container run over both.
var labs = []lab{
	{"fake", fakeLab, []string{diesAfter, failsAt}},
	{"luks", realLab, []string{diesAfter}},
}

func everywhere(t *testing.T, test func(t *testing.T, l lab)) {
	for _, l := range labs {
		t.Run(l.name, func(t *testing.T) { test(t, l) })
	}
}

// image makes an image file with room for some data. Nothing of it is allocated.
func image(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 32<<20)); err != nil {
		t.Fatal(err)
	}
	return path
}

func fakeLab(t testing.TB) func() program {
	testenv.Outside(t)
	m := volumetest.NewMachine(t)
	b := m.Process().Storage().Backings.At(volume.Place{Kind: volume.BackingImage, Dir: t.TempDir()})
	if err := b.Create(t.Context(), 32<<20, volume.AllocFull); err != nil {
		t.Fatal(err)
	}
	path, err := b.Door(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return func() program {
		p := m.Process()
		return program{
			c: p.Storage().Containers.At(path), steps: p.Steps,
			dieAfter: p.KillAt, failAt: func(k int) { p.FailAt(k, errFailed) },
		}
	}
}

func realLab(t testing.TB) func() program {
	path := image(t)
	return func() program {
		s := &stepper{Container: luks.At(path)}
		return program{
			c: s, path: path, steps: func() int { return s.n },
			dieAfter: func(k int) { s.dieAfter = k }, failAt: func(k int) { s.failAt = k },
		}
	}
}

var (
	errDead   = errors.New("killed")
	errFailed = errors.New("write failed")
)

// A stepper counts the writes to a container and cuts them short.
type stepper struct {
	keyslot.Container
	n, dieAfter, failAt int
	noSync              bool
}

func (s *stepper) dead() bool { return s.dieAfter > 0 && s.n >= s.dieAfter }

func (s *stepper) step(write func() error) error {
	if s.dead() {
		return errDead
	}
	s.n++
	if s.n == s.failAt {
		return errFailed
	}
	if err := write(); err != nil {
		return err
	}
	if s.dead() {
		return errDead
	}
	return nil
}

func (s *stepper) read(f func() error) error {
	if s.dead() {
		return errDead
	}
	return f()
}

func (s *stepper) Header() (h *header.Header, err error) {
	err = s.read(func() error { h, err = s.Container.Header(); return err })
	return h, err
}

func (s *stepper) Format(p luks.FormatParams) error {
	return s.step(func() error { return s.Container.Format(p) })
}

func (s *stepper) AddSlot(auth luks.Auth, slot int, key *secret.Key, kdf luks.KDF) error {
	return s.step(func() error { return s.Container.AddSlot(auth, slot, key, kdf) })
}

func (s *stepper) KillSlot(slot int) error {
	return s.step(func() error { return s.Container.KillSlot(slot) })
}

func (s *stepper) SetToken(id int, json []byte) (n int, err error) {
	err = s.step(func() error { n, err = s.Container.SetToken(id, json); return err })
	return n, err
}

func (s *stepper) RemoveToken(id int) error {
	return s.step(func() error { return s.Container.RemoveToken(id) })
}

func (s *stepper) TestSlot(slot int, key *secret.Key) error {
	return s.read(func() error { return s.Container.TestSlot(slot, key) })
}

func (s *stepper) Witness(slot int, key *secret.Key) error {
	return s.read(func() error { return s.Container.Witness(slot, key) })
}

// Foreign and PreferSlot are what containers of others have.
func (s *stepper) Foreign() bool {
	f, ok := s.Container.(interface{ Foreign() bool })
	return ok && f.Foreign()
}

func (s *stepper) PreferSlot(slot int) error {
	p, ok := s.Container.(interface{ PreferSlot(int) error })
	if !ok {
		return nil
	}
	return s.step(func() error { return p.PreferSlot(slot) })
}

// Syncer is one that cannot sync if noSync is set.
func (s *stepper) Syncer() (*luks.Syncer, error) {
	if s.dead() {
		return nil, errDead
	}
	syncer, err := s.Container.Syncer()
	if err == nil && s.noSync {
		err = syncer.Close()
	}
	return syncer, err
}

// A node has the keys to make and open volumes, and somebody elsewhere has the identity.
type node struct {
	*keyslot.Keyring
	provider   *kektest.Memory
	identity   *secret.Key
	identities []recovery.Identity
	// made is what the first Format of this node has made of a real container: the pieces of the image that are in use.
	made map[int64][]byte
}

func newNode(t testing.TB) *node {
	t.Helper()
	identity, text, err := recovery.Generate()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(identity.Wipe)
	recipients, err := recovery.ParseRecipients([]string{text})
	if err != nil {
		t.Fatal(err)
	}
	identities, err := recovery.ParseIdentities(identity)
	if err != nil {
		t.Fatal(err)
	}
	provider := kektest.NewMemory("kek-1")
	return &node{
		Keyring:  &keyslot.Keyring{KEK: provider.Set(), Recipients: recipients, Now: func() time.Time { return created }},
		provider: provider, identity: identity, identities: identities,
	}
}

func params() luks.FormatParams {
	return luks.FormatParams{UUID: uuid, Label: "db", Subsystem: "voluks", SectorSize: 4096}
}

// formatted is a container with both slots. The second real one is a copy of the first: a format writes 32 MiB, most of it to be blank.
func (n *node) formatted(t testing.TB, start func() program) keyslot.Container {
	t.Helper()
	p := start()
	if p.path != "" && n.made != nil {
		for at, piece := range n.made {
			write(t, p.path, piece, at)
		}
		return p.c
	}
	if err := keyslot.Format(t.Context(), p.c, n.Keyring, params()); err != nil {
		t.Fatal(err)
	}
	if p.path != "" {
		n.made = inUse(t, p.path)
	}
	return p.c
}

// inUse are the pieces of an image that mean something: both copies of the header, and the key material of its slots.
func inUse(t testing.TB, path string) map[int64][]byte {
	t.Helper()
	h, err := luks.At(path).Header()
	if err != nil {
		t.Fatal(err)
	}
	pieces := map[int64][]byte{0: h.Raw}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, slot := range h.Keyslots {
		material := make([]byte, slot.Area.Size)
		if _, err := f.ReadAt(material, slot.Area.Offset); err != nil {
			t.Fatal(err)
		}
		pieces[slot.Area.Offset] = material
	}
	return pieces
}

// write makes a part of a file have that content. What it has already is left alone: in a guest, reading costs little and writing much.
func write(t testing.TB, path string, part []byte, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && st.Mode().IsRegular() && st.Size() < at+int64(len(part)) {
		err = f.Truncate(at + int64(len(part)))
	}
	have := make([]byte, 64<<10)
	for off := 0; err == nil && off < len(part); off += len(have) {
		piece := part[off:min(off+len(have), len(part))]
		was := have[:len(piece)]
		if _, err = f.ReadAt(was, at+int64(off)); err == nil && !bytes.Equal(was, piece) {
			_, err = f.WriteAt(piece, at+int64(off))
		}
	}
	if err != nil {
		t.Fatal(err)
	}
}

// state decodes the header, which must be free of errors.
func state(t testing.TB, c keyslot.Container) keyslot.Slots {
	t.Helper()
	h, err := c.Header()
	if err != nil {
		t.Fatal(err)
	}
	s, err := keyslot.State(h)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// opens proves that the node opens the container by itself, and returns the slot.
func (n *node) opens(t testing.TB, c keyslot.Container) int {
	t.Helper()
	slot, key, err := keyslot.Unlock(t.Context(), c, n.Keyring)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	if err := keyslot.Prove(c, slot, key); err != nil {
		t.Fatal(err)
	}
	return slot
}

// recovers proves that the identity opens the container, and returns the slot.
func (n *node) recovers(t testing.TB, c keyslot.Container) int {
	t.Helper()
	slot, key, err := keyslot.UnlockRecovery(c, n.identities)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	if err := keyslot.Prove(c, slot, key); err != nil {
		t.Fatal(err)
	}
	return slot
}

// whole checks that the container is what Format makes, whatever way it took: two slots, two tokens,
// both open.
func (n *node) whole(t testing.TB, c keyslot.Container) {
	t.Helper()
	h, err := c.Header()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Strict(header.Expect{UUID: uuid, SectorSize: 4096}); err != nil {
		t.Error(err)
	}
	s := state(t, c)
	if len(s.Slots) != 2 || len(h.Tokens) != 2 || s.Slots[0].Role != keyslot.RoleAgent || s.Slots[1].Role != keyslot.RoleRecovery {
		t.Fatalf("slots %+v, %d tokens", s.Slots, len(h.Tokens))
	}
	if slot := n.opens(t, c); slot != 31 {
		t.Errorf("the agent's slot is %d", slot)
	}
	if slot := n.recovers(t, c); slot != 30 {
		t.Errorf("the recovery slot is %d", slot)
	}
}
