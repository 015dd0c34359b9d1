// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// Conformance checks that a storage does what package volume relies on. open makes a storage and names a directory for images and mountpoints; what
// lies in it may be left behind, what the kernel holds is gone after each test.
func Conformance(t *testing.T, open func(t *testing.T) (volume.Storage, string)) {
	for name, test := range map[string]func(*suite){
		"files": func(s *suite) { FilesConformance(s.T, s.Files, s.dir) }, "image": image_, "container": container_, "mapping": mapping_, "ext4": func(s *suite) { s.filesystem(filesystem.Ext4, 32<<20) },
		"btrfs": func(s *suite) { s.filesystem(filesystem.Btrfs, 128<<20) }, "xfs": func(s *suite) { s.filesystem(filesystem.XFS, 320<<20) },
		"mountpoint": mountpoint_, "kernel": kernel_,
	} {
		t.Run(name, func(t *testing.T) {
			storage, dir := open(t)
			test(&suite{T: t, Storage: storage, dir: dir})
		})
	}
}

type suite struct {
	*testing.T
	volume.Storage
	dir string
}

func (s *suite) ok(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *suite) is(err, want error) {
	s.Helper()
	if !errors.Is(err, want) {
		s.Errorf("got %v, want %v", err, want)
	}
}

// FilesConformance is the part of Conformance that needs no kernel of its own: what Files do below dir.
func FilesConformance(t *testing.T, f volume.Files, dir string) {
	s := &suite{T: t, Storage: volume.Storage{Files: f}, dir: dir}
	sub, file := filepath.Join(s.dir, "sub"), filepath.Join(s.dir, "sub", "file")
	list, err := s.Files.List(sub)
	s.ok(err)
	if len(list) > 0 {
		s.Errorf("a directory that does not exist has %v", list)
	}
	_, err = s.Files.Read(file, 10)
	s.is(err, fs.ErrNotExist)
	for range 2 {
		s.ok(s.Files.Mkdir(sub, 0o700))
	}
	for _, content := range []string{"one", "", "three"} {
		s.ok(s.Files.Write(file, []byte(content)))
		b, err := s.Files.Read(file, 10)
		if err != nil || string(b) != content {
			s.Errorf("read %q, %v", b, err)
		}
	}
	if _, err := s.Files.Read(file, 4); err == nil {
		s.Error("more than the limit was read")
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		s.Errorf("mode %v, %v", info.Mode(), err)
	}
	if list, err := s.Files.List(sub); err != nil || !slices.Equal(list, []string{"file"}) {
		s.Errorf("list %v, %v", list, err)
	}
	if s.Files.Remove(sub) == nil {
		s.Error("a directory with something in it was removed")
	}
	other := filepath.Join(s.dir, "other")
	s.ok(s.Files.Mkdir(other, 0o700))
	if s.Files.Rename(sub, other) == nil {
		s.Error("a directory was replaced")
	}
	s.ok(s.Files.Remove(other))
	s.ok(s.Files.Rename(sub, other))
	s.ok(s.Files.Remove(filepath.Join(other, "file")))
	for range 2 {
		s.ok(s.Files.Remove(other))
	}
}

// backing names an image that is the only one in a directory of its own.
func (s *suite) backing(name string) volume.Backing {
	s.Helper()
	dir := filepath.Join(s.dir, name)
	s.ok(s.Files.Mkdir(dir, 0o700))
	return s.Backings.At(volume.Place{Kind: volume.BackingImage, Dir: dir})
}

// image makes an attached image, which goes with the test.
func (s *suite) image(name string, size int64) (b volume.Backing, a volume.Attachment) {
	s.Helper()
	b = s.backing(name)
	s.ok(b.Create(s.Context(), size, volume.AllocSparse))
	a, err := b.Attach(s.Context())
	s.ok(err)
	s.Cleanup(func() { a.Close() })
	return b, a
}

// lower is the device that a mapping lies on.
func (s *suite) lower(d *sys.DMDevice) sys.Dev {
	s.Helper()
	var lower sys.Dev
	if n, err := fmt.Sscanf(strings.Fields(d.Targets[0].Params)[3], "%d:%d", &lower.Major, &lower.Minor); n != 2 {
		s.Fatal(err)
	}
	return lower
}

func image_(s *suite) {
	ctx := s.Context()
	none := s.backing("none")
	s.ok(none.Remove(ctx))
	s.ok(none.Detach(ctx))
	_, err := none.Attach(ctx)
	s.is(err, fs.ErrNotExist)
	_, err = none.Size(ctx)
	s.is(err, fs.ErrNotExist)
	_, err = none.Door(ctx)
	s.is(err, fs.ErrNotExist)
	_, err = none.Users()
	s.is(err, fs.ErrNotExist)

	i, a := s.image("one", 20<<20)
	s.is(i.Create(ctx, 20<<20, volume.AllocFull), fs.ErrExist)
	if size, err := i.Size(ctx); err != nil || size != 20<<20 { // F8
		s.Errorf("size %d, %v", size, err)
	}
	s.ok(i.ProbeBlank(ctx, a.Dev()))
	b, err := i.Attach(ctx)
	s.ok(err)
	if a.Dev() != b.Dev() {
		s.Errorf("attached twice: %s and %s", a.Dev(), b.Dev())
	}
	attached := func() bool {
		s.Helper()
		users, err := i.Users()
		s.ok(err)
		return len(users) > 0
	}
	if door, err := i.Door(ctx); err != nil || door != a.Dev() || !attached() {
		s.Errorf("door %s, %v", door, err)
	}
	_, err = i.Erase(ctx)
	s.is(err, backing.ErrInUse)
	s.ok(a.Close())
	if !attached() {
		s.Error("the device went with one of two users")
	}
	for range 2 {
		s.ok(b.Close())
	}
	s.ok(i.Detach(ctx))
	s.ok(i.Detach(ctx))
	if door, err := i.Door(ctx); err != nil || door == a.Dev() || attached() {
		s.Errorf("door %s, %v", door, err)
	}
	var other *backing.OtherError
	if err := i.Is(sys.Dev{Major: 1, Minor: 3}); !errors.As(err, &other) { // /dev/null's numbers, as a block device a RAM disk
		s.Errorf("another device: %v", err)
	}
	erased, err := i.Erase(ctx)
	s.ok(err)
	if erased.Bytes != backing.HeaderSize {
		s.Errorf("erased %d bytes", erased.Bytes)
	}
	s.ok(i.Remove(ctx))
	_, err = i.Size(ctx)
	s.is(err, fs.ErrNotExist)
	_, err = i.Erase(ctx)
	s.is(err, fs.ErrNotExist)
	// What was removed is made anew.
	s.ok(i.Create(ctx, 20<<20, volume.AllocFull))
	s.ok(i.Remove(ctx))
}

func (s *suite) key() *secret.Key {
	s.Helper()
	k, err := secret.Random(32)
	s.ok(err)
	s.Cleanup(k.Wipe)
	return k
}

// formatted makes a container with a slot.
func (s *suite) formatted(name string, size int64) (b volume.Backing, a volume.Attachment, c volume.Container, id string, key *secret.Key) {
	s.Helper()
	b, a = s.image(name, size)
	c, id, key = s.Containers.At(a.Dev()), uuid.NewString(), s.key()
	s.ok(c.Format(luks.FormatParams{UUID: id, Label: "label", Subsystem: "voluks", SectorSize: 4096, Slot: 31, Key: key}))
	return b, a, c, id, key
}

func container_(s *suite) {
	ctx := s.Context()
	_, blank := s.image("blank", 20<<20)
	_, err := s.Containers.At(blank.Dev()).Header()
	s.is(err, header.ErrNotLUKS)

	b, a, c, id, key := s.formatted("image", 20<<20)
	h, err := c.Header()
	s.ok(err)
	s.ok(h.Strict(header.Expect{UUID: id, SectorSize: 4096}))
	if h.UUID != id || h.Label != "label" || len(h.Keyslots) != 1 || len(h.Tokens) != 0 || h.Damage() != nil {
		s.Errorf("header %+v", h)
	}
	var not *backing.NotBlankError
	if err := b.ProbeBlank(ctx, a.Dev()); !errors.As(err, &not) {
		s.Errorf("a container is blank: %v", err)
	}

	other := s.key()
	s.ok(c.TestSlot(31, key))
	s.ok(c.Witness(31, key))
	s.is(c.TestSlot(31, other), luks.ErrWrongKey)
	s.is(c.TestSlot(30, key), luks.ErrNoSlot)
	s.is(c.AddSlot(luks.Auth{Slot: 31, Key: other}, 30, other, luks.KDFRandomKey), luks.ErrWrongKey)
	s.is(c.AddSlot(luks.Auth{Slot: 31, Key: key}, 31, other, luks.KDFRandomKey), luks.ErrSlotOccupied)
	s.ok(c.AddSlot(luks.Auth{Slot: 31, Key: key}, 30, other, luks.KDFRandomKey))
	s.ok(c.TestSlot(30, other))
	s.ok(c.TestSlot(31, key))

	one := []byte(`{"type":"test-one","keyslots":["30"],"text":"a\"b"}`)
	n, err := c.SetToken(-1, one)
	s.ok(err)
	if _, err := c.SetToken(-1, []byte(`{"type":"test-two","keyslots":["7"]}`)); err == nil {
		s.Error("a token names an empty slot")
	}
	if _, err := c.SetToken(-1, []byte(`{"type":"test-two"}`)); err == nil {
		s.Error("a token has no keyslots")
	}
	m, err := c.SetToken(-1, []byte(`{"type":"test-two","keyslots":[]}`))
	if err != nil || m == n {
		s.Errorf("token %d, %v", m, err)
	}
	if again, err := c.SetToken(m, []byte(`{"type":"test-three","keyslots":[]}`)); err != nil || again != m {
		s.Errorf("token %d, %v", again, err)
	}
	syncer, err := c.Syncer()
	s.ok(err)
	s.ok(syncer.Sync())
	s.ok(syncer.Close())
	h, err = c.Header()
	s.ok(err)
	var text struct{ Text string }
	if json.Unmarshal(h.Tokens[n].JSON, &text) != nil || text.Text != `a"b` || !slices.Equal(h.Tokens[n].Keyslots, []int{30}) || h.Tokens[m].Type != "test-three" {
		s.Errorf("tokens %+v", h.Tokens)
	}
	s.ok(c.RemoveToken(m))
	if c.RemoveToken(m) == nil {
		s.Error("a token was removed twice")
	}
	s.ok(c.KillSlot(30))
	s.is(c.TestSlot(30, other), luks.ErrNoSlot)
	s.is(c.KillSlot(30), luks.ErrNoSlot)
	s.ok(c.SetFlags(luks.Flags{Discards: true}))

	s.is(c.Forget(30), luks.ErrNoSlot)

	// The same through the file once it is not attached.
	s.ok(a.Close())
	s.ok(b.Detach(ctx))
	path, err := b.Door(ctx)
	s.ok(err)
	h, err = s.Containers.At(path).Header()
	if err != nil || h.UUID != id || len(h.Keyslots) != 1 || len(h.Tokens) != 1 {
		s.Errorf("header %+v, %v", h, err)
	}
	s.ok(s.Containers.At(path).Forget(31))
	if h, err := s.Containers.At(path).Header(); err != nil || h.UUID != id || len(h.Keyslots) != 0 {
		s.Errorf("header %+v, %v", h, err)
	}
	s.is(s.Containers.At(path).TestSlot(31, key), luks.ErrNoSlot)
}

func mapping_(s *suite) {
	ctx := s.Context()
	b, a, c, id, key := s.formatted("image", 20<<20)
	name := luks.MappingName(id)
	find := func() *sys.DMDevice {
		s.Helper()
		all, err := s.Kernel.Mappings()
		s.ok(err)
		for _, d := range all {
			if d.Name == name {
				return &d
			}
		}
		return nil
	}
	expect := header.Expect{UUID: id, SectorSize: 4096}
	s.is(c.Open(luks.OpenParams{Name: name, Slot: 31, Key: s.key(), Expect: expect}), luks.ErrWrongKey)
	s.is(c.Open(luks.OpenParams{Name: name, Slot: 5, Key: key, Expect: expect}), luks.ErrNoSlot)
	var strict *header.StrictError
	if err := c.Open(luks.OpenParams{Name: name, Slot: 31, Key: key, Expect: header.Expect{UUID: uuid.NewString()}}); !errors.As(err, &strict) {
		s.Errorf("another container was opened: %v", err)
	}
	if d := find(); d != nil {
		s.Errorf("a failed open left %+v", d)
	}
	s.is(s.Containers.Close(name), luks.ErrNotActive)
	s.ok(c.Open(luks.OpenParams{Name: name, Slot: 31, Key: key, Expect: expect}))
	s.Cleanup(func() { s.Containers.Close(name) })
	d := find()
	if d == nil {
		s.Fatal("no mapping")
	}
	s.ok(luks.CheckTable(d, luks.Table{UUID: id, Name: name, SectorSize: 4096, Length: 20 << 20}))
	s.ok(b.Is(s.lower(d)))
	if d.Suspended || d.OpenCount != 0 {
		s.Errorf("got %+v", d)
	}
	var other *backing.OtherError
	if err := b.Is(sys.Dev{Major: d.Major, Minor: d.Minor}); !errors.As(err, &other) {
		s.Errorf("a mapping is its own backing: %v", err)
	}
	s.grow(b, c, luks.OpenParams{Name: name, Slot: 31, Key: key, Expect: expect}, find)
	// The mapping keeps the device.
	s.ok(a.Close())
	short, cancel := context.WithTimeout(s.Context(), 50*time.Millisecond)
	defer cancel()
	s.is(b.Detach(short), sys.ErrBusy)
	if h, err := c.Header(); err != nil || h.UUID != id {
		s.Errorf("header of an open container: %v", err)
	}
	s.ok(s.Containers.Close(name))
	s.is(s.Containers.Close(name), luks.ErrNotActive)
	s.ok(b.Detach(ctx))
	if find() != nil {
		s.Error("the mapping is still there")
	}
}

// grow makes the backing and the open mapping larger, each as often as one likes, and never smaller (F8 F44).
func (s *suite) grow(b volume.Backing, c volume.Container, p luks.OpenParams, find func() *sys.DMDevice) {
	s.Helper()
	const size = 24 << 20
	length := func(want uint64) {
		s.Helper()
		if got := find().Targets[0].Length; got != want/512 {
			s.Errorf("the mapping has %d sectors, want %d", got, want/512)
		}
	}
	s.ok(c.Resize(p))
	length(20 << 20)
	for _, asked := range []int64{size, size, 4 << 20} {
		s.ok(b.Grow(s.Context(), asked, volume.AllocSparse))
		if got, err := b.Size(s.Context()); err != nil || got != size {
			s.Errorf("size %d, %v", got, err)
		}
	}
	length(20 << 20)
	other := p
	other.Key = s.key()
	s.is(c.Resize(other), luks.ErrWrongKey)
	length(20 << 20)
	for range 2 {
		s.ok(c.Resize(p))
		length(size)
	}
	other.Key, other.Name = p.Key, "voluks-none"
	s.is(c.Resize(other), sys.ErrNotExist)
	s.ok(b.Is(s.lower(find())))
}

func (s *suite) filesystem(kind filesystem.Type, size int64) {
	ctx := s.Context()
	b, a, c, id, key := s.formatted("image", size)
	name := luks.MappingName(id)
	dev := "/dev/mapper/" + name
	s.ok(c.Open(luks.OpenParams{Name: name, Slot: 31, Key: key, Expect: header.Expect{UUID: id}}))
	s.ok(a.Close())
	target := filepath.Join(s.dir, "mnt")
	s.Cleanup(func() {
		if s.Failed() {
			s.Filesystems.Unmount(ctx, target)
			s.Containers.Close(name)
		}
	})
	spec := filesystem.Spec{Type: kind, UUID: uuid.NewString()}
	s.ok(os.Mkdir(target, 0o700))
	if s.Filesystems.Mount(ctx, dev, target, spec) == nil {
		s.Error("noise was mounted")
	}
	s.ok(s.Filesystems.Make(ctx, dev, spec))
	if sig, err := s.Filesystems.Probe(ctx, dev); err != nil || sig == nil || sig.Type != string(kind) || sig.UUID != spec.UUID {
		s.Errorf("probe %+v, %v", sig, err)
	}
	if d, err := s.Kernel.BtrfsDevices(spec.UUID); err != nil || len(d) != 0 {
		s.Errorf("btrfs devices of what is not mounted: %v, %v", d, err)
	}
	for round := range 2 {
		s.ok(s.Filesystems.Mount(ctx, dev, target, spec))
		has, err := s.Filesystems.HasData(target)
		if err != nil || has != (round == 1) {
			s.Errorf("round %d: has data %t, %v", round, has, err)
		}
		if round == 0 {
			s.ok(s.Filesystems.MakeData(target, 0, 0, 0o750))
		}
		s.mounted(kind, id, target, spec)
		s.is(s.Containers.Close(name), luks.ErrBusy)
		s.ok(s.Filesystems.Unmount(ctx, target))
	}
	s.ok(s.Containers.Close(name))
	s.ok(b.Detach(ctx))
}

// mounted checks what the kernel's tables say of a mounted mapping.
func (s *suite) mounted(kind filesystem.Type, id, target string, spec filesystem.Spec) {
	s.Helper()
	real, err := filepath.EvalSymlinks(target)
	s.ok(err)
	mounts, err := s.Kernel.Mounts()
	s.ok(err)
	var mount sys.MountInfo
	for _, m := range mounts {
		if m.Mountpoint == real {
			mount = m
		}
	}
	mappings, err := s.Kernel.Mappings()
	s.ok(err)
	i := slices.IndexFunc(mappings, func(d sys.DMDevice) bool { return d.Name == luks.MappingName(id) })
	if i < 0 {
		s.Fatal("no mapping")
	}
	d := mappings[i]
	if mount.Root != "/" || mount.FSType != string(kind) || mount.Source != "/dev/mapper/"+d.Name || !strings.HasPrefix(mount.SuperOptions, "rw") {
		s.Errorf("mount %+v", mount)
	}
	if d.OpenCount == 0 {
		s.Error("a mounted mapping is not open")
	}
	devices, err := s.Kernel.BtrfsDevices(spec.UUID)
	s.ok(err)
	if kind == filesystem.Btrfs {
		if len(devices) != 1 || devices[0].Major != d.Major || devices[0].Minor != d.Minor || mount.Major == d.Major && mount.Minor == d.Minor {
			s.Errorf("btrfs devices %v of mapping %d:%d, mount %+v", devices, d.Major, d.Minor, mount)
		}
	} else if mount.Major != d.Major || mount.Minor != d.Minor || len(devices) > 0 {
		s.Errorf("mount %+v of mapping %d:%d, btrfs devices %v", mount, d.Major, d.Minor, devices)
	}
	spaces, err := s.Kernel.Namespaces()
	s.ok(err)
	if !slices.ContainsFunc(spaces, func(ns sys.MountNamespace) bool {
		return slices.ContainsFunc(ns.Mounts, func(m sys.MountInfo) bool { return m.Mountpoint == real })
	}) {
		s.Error("the mount is in no namespace")
	}
	if u, err := s.Filesystems.Usage(target); err != nil || u.Size <= 0 || u.Avail <= 0 || u.Used < 0 || u.Used > u.Size {
		s.Errorf("usage %+v, %v", u, err)
	}
}

func mountpoint_(s *suite) {
	mnt := filepath.Join(s.dir, "bare")
	s.ok(s.Filesystems.RemoveBare(mnt))
	for range 2 {
		_, err := s.Filesystems.MakeBare(mnt)
		s.ok(err)
		if info, err := os.Lstat(mnt); err != nil || info.Mode().Perm() != 0 {
			s.Errorf("a bare mountpoint has mode %v, %v", info.Mode(), err)
		}
	}
	for range 2 {
		s.ok(s.Filesystems.RemoveBare(mnt))
	}
	if _, err := os.Lstat(mnt); !errors.Is(err, fs.ErrNotExist) {
		s.Errorf("still there: %v", err)
	}
	s.ok(os.MkdirAll(filepath.Join(mnt, "inner"), 0o700))
	if s.Filesystems.RemoveBare(mnt) == nil {
		s.Error("a mountpoint with something in it was removed")
	}
}

func kernel_(s *suite) {
	a, err := s.Kernel.BootID()
	s.ok(err)
	if b, err := s.Kernel.BootID(); err != nil || a == "" || a != b {
		s.Errorf("boot %q, %q, %v", a, b, err)
	}
	_, err = s.Kernel.ProcessStart(math.MaxInt32)
	s.is(err, fs.ErrNotExist)
	mounts, err := s.Kernel.Mounts()
	s.ok(err)
	if !slices.ContainsFunc(mounts, func(m sys.MountInfo) bool { return m.Mountpoint == "/" }) {
		s.Error(fmt.Sprint("no root in ", mounts))
	}
}
