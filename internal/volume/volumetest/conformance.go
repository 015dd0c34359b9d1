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
		"files": func(s *suite) { FilesConformance(s.T, s.Files, s.dir) }, "images": images_, "container": container_, "mapping": mapping_, "ext4": func(s *suite) { s.filesystem(filesystem.Ext4, 32<<20) },
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

// image makes an attached image, which goes with the test.
func (s *suite) image(name string, size int64) (path string, a volume.Attachment) {
	s.Helper()
	path = filepath.Join(s.dir, name)
	s.ok(s.Images.Create(s.Context(), path, size, volume.AllocSparse))
	a, err := s.Images.Attach(s.Context(), path)
	s.ok(err)
	s.Cleanup(func() { a.Close() })
	return path, a
}

func images_(s *suite) {
	ctx := s.Context()
	s.ok(s.Images.Remove(ctx, filepath.Join(s.dir, "none")))
	_, err := s.Images.Attach(ctx, filepath.Join(s.dir, "none"))
	s.is(err, fs.ErrNotExist)
	_, err = s.Kernel.LoopsOf(filepath.Join(s.dir, "none"))
	s.is(err, fs.ErrNotExist)
	_, _, err = s.Kernel.FileID(filepath.Join(s.dir, "none"))
	s.is(err, fs.ErrNotExist)

	path, a := s.image("image", 20<<20)
	s.is(s.Images.Create(ctx, path, 20<<20, volume.AllocFull), fs.ErrExist)
	if size, err := s.Images.Size(path); err != nil || size != 20<<20 {
		s.Errorf("size %d, %v", size, err)
	}
	s.ok(s.Images.ProbeBlank(ctx, a.Dev()))
	b, err := s.Images.Attach(ctx, path)
	s.ok(err)
	if a.Dev() != b.Dev() {
		s.Errorf("attached twice: %s and %s", a.Dev(), b.Dev())
	}
	loops, err := s.Kernel.LoopsOf(path)
	dev, ino, err2 := s.Kernel.FileID(path)
	if err != nil || err2 != nil || len(loops) != 1 || loops[0].Path != a.Dev() || loops[0].BackingDev != dev || loops[0].BackingIno != ino {
		s.Fatalf("loops %+v of file %d %d, %v, %v", loops, dev, ino, err, err2)
	}
	if l, err := s.Kernel.Loop(loops[0].Major, loops[0].Minor); err != nil || l != loops[0] {
		s.Errorf("got %+v, %v", l, err)
	}
	s.ok(a.Close())
	if loops, err := s.Kernel.LoopsOf(path); err != nil || len(loops) != 1 {
		s.Errorf("the device went with one of two users: %v, %v", loops, err)
	}
	for range 2 {
		s.ok(b.Close())
	}
	s.ok(s.Images.Detach(ctx, path))
	if loops, err := s.Kernel.LoopsOf(path); err != nil || len(loops) != 0 {
		s.Errorf("still %v, %v", loops, err)
	}
	s.ok(s.Images.Detach(ctx, path))
	s.ok(s.Images.Remove(ctx, path))
	_, _, err = s.Kernel.FileID(path)
	s.is(err, fs.ErrNotExist)
}

func (s *suite) key() *secret.Key {
	s.Helper()
	k, err := secret.Random(32)
	s.ok(err)
	s.Cleanup(k.Wipe)
	return k
}

// formatted makes a container with a slot.
func (s *suite) formatted(name string, size int64) (path string, a volume.Attachment, c volume.Container, id string, key *secret.Key) {
	s.Helper()
	path, a = s.image(name, size)
	c, id, key = s.Containers.At(a.Dev()), uuid.NewString(), s.key()
	s.ok(c.Format(luks.FormatParams{UUID: id, Label: "label", Subsystem: "voluks", SectorSize: 4096, Slot: 31, Key: key}))
	return path, a, c, id, key
}

func container_(s *suite) {
	ctx := s.Context()
	_, blank := s.image("blank", 20<<20)
	_, err := s.Containers.At(blank.Dev()).Header()
	s.is(err, header.ErrNotLUKS)

	path, a, c, id, key := s.formatted("image", 20<<20)
	h, err := c.Header()
	s.ok(err)
	s.ok(h.Strict(header.Expect{UUID: id, SectorSize: 4096}))
	if h.UUID != id || h.Label != "label" || len(h.Keyslots) != 1 || len(h.Tokens) != 0 || h.Damage() != nil {
		s.Errorf("header %+v", h)
	}
	var not *backing.NotBlankError
	if err := s.Images.ProbeBlank(ctx, a.Dev()); !errors.As(err, &not) {
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

	// The same through the file once it is not attached.
	s.ok(a.Close())
	s.ok(s.Images.Detach(ctx, path))
	h, err = s.Containers.At(path).Header()
	if err != nil || h.UUID != id || len(h.Keyslots) != 1 || len(h.Tokens) != 1 {
		s.Errorf("header %+v, %v", h, err)
	}
}

func mapping_(s *suite) {
	ctx := s.Context()
	path, a, c, id, key := s.formatted("image", 20<<20)
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
	loops, err := s.Kernel.LoopsOf(path)
	s.ok(err)
	s.ok(luks.CheckTable(d, luks.Table{UUID: id, Name: name, SectorSize: 4096, Length: 20 << 20, Device: sys.Dev{Major: loops[0].Major, Minor: loops[0].Minor}}))
	if d.Suspended || d.OpenCount != 0 {
		s.Errorf("got %+v", d)
	}
	if _, err := s.Kernel.Loop(d.Major, d.Minor); !errors.Is(err, sys.ErrNotExist) {
		s.Errorf("a mapping is a loop device: %v", err)
	}
	// The mapping keeps the device.
	s.ok(a.Close())
	short, cancel := context.WithTimeout(s.Context(), 50*time.Millisecond)
	defer cancel()
	s.is(s.Images.Detach(short, path), sys.ErrBusy)
	if h, err := c.Header(); err != nil || h.UUID != id {
		s.Errorf("header of an open container: %v", err)
	}
	s.ok(s.Containers.Close(name))
	s.is(s.Containers.Close(name), luks.ErrNotActive)
	s.ok(s.Images.Detach(ctx, path))
	if find() != nil {
		s.Error("the mapping is still there")
	}
}

func (s *suite) filesystem(kind filesystem.Type, size int64) {
	ctx := s.Context()
	path, a, c, id, key := s.formatted("image", size)
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
	s.ok(s.Images.Detach(ctx, path))
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
	_, err = s.Kernel.Loop(1, 3) // /dev/mem's numbers, as a block device a RAM disk
	s.is(err, sys.ErrNotExist)
}
