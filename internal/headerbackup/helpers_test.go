// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

func TestMain(m *testing.M) {
	// libcryptsetup opens /dev/urandom and /dev/random on first use, and keeps them: no leak of ours.
	if _, err := luks.Version(); err != nil {
		panic(err)
	}
	testenv.Main(m)
}

const (
	testUUID  = "0f6bd0a6-1a5c-4a49-9d15-6f8a3c5b2e11"
	otherUUID = "7c1d9a52-93b0-4a0e-8a4e-2f1f0f9c7a33"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

// node is a store with the identity that opens its backups.
type node struct {
	*Store
	o          Options
	identities []recovery.Identity
	identity   *secret.Key // text
}

func newNode(t testing.TB) *node {
	t.Helper()
	text, recipient, err := recovery.Generate()
	must(t, err)
	t.Cleanup(text.Wipe)
	r, err := recovery.ParseRecipient(recipient)
	must(t, err)
	ids, err := recovery.ParseIdentities(text)
	must(t, err)
	clock := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	n := &node{identities: ids, identity: text}
	n.use(Options{
		Dir: filepath.Join(t.TempDir(), "backups"), Recipients: []recovery.Recipient{r}, Generation: generationOf,
		Now: func() time.Time { clock = clock.Add(time.Second); return clock },
	})
	return n
}

func (n *node) use(o Options) { n.o, n.Store = o, New(o) }

// generationOf reads the token that stands for those of package keyslot.
func generationOf(h *header.Header) (uint64, error) {
	var highest uint64
	for _, t := range h.Tokens {
		var fields struct{ Generation uint64 }
		if t.Type == "test" {
			if err := json.Unmarshal(t.JSON, &fields); err != nil {
				return 0, err
			}
		}
		highest = max(highest, fields.Generation)
	}
	return highest, nil
}

// volume is a container in a file, with the keys of its slots.
type volume struct {
	*luks.Container
	keys map[int]*secret.Key
}

// newVolume makes a container with slots 31 and 30 and generation 1. All of one UUID are copies of the first, since formatting takes its time.
func newVolume(t testing.TB, uuid string) *volume {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	must(t, os.WriteFile(path, templates[uuid].head, 0o600))
	must(t, os.Truncate(path, 17<<20))
	v := &volume{Container: luks.At(path), keys: map[int]*secret.Key{}}
	if known, ok := templates[uuid]; ok {
		for slot, k := range known.keys {
			v.keys[slot] = newKey(t)
			copy(v.keys[slot].Bytes(), k)
		}
		return v
	}
	v.keys[31], v.keys[30] = newKey(t), newKey(t)
	must(t, v.Format(luks.FormatParams{UUID: uuid, SectorSize: 4096, Slot: 31, Key: v.keys[31]}))
	must(t, v.AddSlot(luks.Auth{Slot: 31, Key: v.keys[31]}, 30, v.keys[30], luks.KDFRandomKey))
	v.generation(t, 1)
	templates[uuid] = template{v.bytes(t)[:headSize], map[int][]byte{31: bytes.Clone(v.keys[31].Bytes()), 30: bytes.Clone(v.keys[30].Bytes())}}
	return v
}

type template struct {
	head []byte
	keys map[int][]byte // for tests alone: they open nothing
}

var templates = map[string]template{}

func newKey(t testing.TB) *secret.Key {
	t.Helper()
	k, err := secret.Random(32)
	must(t, err)
	t.Cleanup(k.Wipe)
	return k
}

func (v *volume) generation(t testing.TB, g uint64) {
	t.Helper()
	_, err := v.SetToken(0, fmt.Appendf(nil, `{"type":"test","keyslots":["30"],"generation":%d}`, g))
	must(t, err)
}

// rotate replaces a slot by another with a new key, and counts the generation up.
func (v *volume) rotate(t testing.TB, from, to int) {
	t.Helper()
	h, err := v.Header()
	must(t, err)
	g, err := generationOf(h)
	must(t, err)
	v.keys[to] = newKey(t)
	must(t, v.AddSlot(luks.Auth{Slot: from, Key: v.keys[from]}, to, v.keys[to], luks.KDFRandomKey))
	must(t, v.KillSlot(from))
	v.generation(t, g+1)
}

func (v *volume) open() Opener { return Of(v.Container) }

func (v *volume) opens(slot int) bool { return v.TestSlot(slot, v.keys[slot]) == nil }

func (v *volume) bytes(t testing.TB) []byte {
	t.Helper()
	b, err := os.ReadFile(v.Path())
	must(t, err)
	return b
}

func (v *volume) write(t testing.TB, at int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(v.Path(), os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	_, err = f.WriteAt(b, at)
	must(t, err)
}

func (v *volume) expect() header.Expect { return header.Expect{UUID: testUUID, SectorSize: 4096} }

func take(t testing.TB, n *node, v *volume) *Backup {
	t.Helper()
	b, err := n.Take(v.open(), testUUID)
	must(t, err)
	return b
}

func openBackup(t testing.TB, n *node, b *Backup) *Image {
	t.Helper()
	i, err := Open(b.Copies[0].Path, n.identities)
	must(t, err)
	return i
}

// withJSON returns the header area with other metadata, as somebody could write them who knows the format: checksums and all.
func withJSON(t testing.TB, raw []byte, change func(map[string]any)) []byte {
	t.Helper()
	h, err := header.Read(bytes.NewReader(raw), int64(len(raw)))
	must(t, err)
	var m map[string]any
	must(t, json.Unmarshal(h.JSON, &m))
	change(m)
	text, err := json.Marshal(m)
	must(t, err)
	return withText(raw, h.Size, text)
}

func withText(raw []byte, size int64, text []byte) []byte {
	raw = bytes.Clone(raw)
	for _, b := range [][]byte{raw[:size], raw[size : 2*size]} {
		clear(b[4096:])
		copy(b[4096:], text)
		setChecksum(b)
	}
	return raw
}

// headSize bytes from the start hold all slots of the tests.
const headSize = 1 << 20

// memory is a device in memory that can lose power. Only the first bytes exist; the others are zero and stay so.
type memory struct {
	head    []byte // as the medium has it
	pending []pendingWrite
	size    int64

	writes int // until now
	cutAt  int // number of the write at which the power goes, from 1; 0: never
	cut    func(*memory)
	off    bool
}

type pendingWrite struct {
	at int64
	b  []byte
}

var errPower = errors.New("no power")

func (m *memory) open(bool) (Device, error) { return m, nil }

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if m.off {
		return 0, errPower
	}
	clear(p)
	if off < int64(len(m.head)) {
		copy(p, m.head[off:])
	}
	for _, w := range m.pending {
		if from, to := max(off, w.at), min(off+int64(len(p)), w.at+int64(len(w.b))); from < to {
			copy(p[from-off:to-off], w.b[from-w.at:])
		}
	}
	return len(p), nil
}

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if m.off {
		return 0, errPower
	}
	inside := min(int64(len(p)), int64(len(m.head))-off)
	if off%block != 0 || len(p)%block != 0 || inside <= 0 || len(bytes.Trim(p[inside:], "\x00")) != 0 {
		panic(fmt.Sprintf("a write of %d bytes at %d", len(p), off))
	}
	m.pending = append(m.pending, pendingWrite{off, bytes.Clone(p[:inside])})
	m.writes++
	if m.writes == m.cutAt {
		m.cut(m)
		m.pending, m.off = nil, true
		return 0, errPower
	}
	return len(p), nil
}

func (m *memory) Sync() error {
	if m.off {
		return errPower
	}
	for _, w := range m.pending {
		copy(m.head[w.at:], w.b)
	}
	m.pending = nil
	return nil
}

func (m *memory) Size() int64  { return m.size }
func (m *memory) Close() error { return nil }

// What the medium may have of the writes since the last sync when the power goes.
var cuts = map[string]func(*memory){
	"nothing":    func(*memory) {},
	"everything": func(m *memory) { m.off = false; _ = m.Sync() },
	"the last":   func(m *memory) { w := m.pending[len(m.pending)-1]; copy(m.head[w.at:], w.b) },
	"its start":  func(m *memory) { w := m.pending[len(m.pending)-1]; copy(m.head[w.at:], w.b[:512]) },
}
