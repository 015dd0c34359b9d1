// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/luks"
)

// Plug makes a disk with that content (nil: blank) that a stable name leads to. What the name led to before stays, without a name.
func (f *Machine) Plug(name string, id sys.BlockID, content *Content) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if content == nil {
		content = &Content{&disk{}}
	}
	content.disk.size = id.Size
	f.disksMade++
	f.devices[name] = &block{
		Dev: sys.Dev{Major: 8, Minor: 16 * f.disksMade, Name: fmt.Sprintf("/dev/sd%d", f.disksMade)}, disk: content.disk, size: id.Size, id: id, path: f.scratch(), pinned: true,
	}
}

// Rotate makes all disks of the machine rotating ones, or ends that.
func (f *Machine) Rotate(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rotating = on
}

func (p *process) Rotational() (bool, error) {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return false, err
	}
	defer unlock()
	return p.m.rotating, nil
}

// HeaderFlags are what the header in a disk that a name leads to says of activations by others.
func (f *Machine) HeaderFlags(name string) luks.Flags {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.devices[name].disk.box.flags
}

// scratch is a file that can be opened where a disk would be.
func (f *Machine) scratch() string {
	path := filepath.Join(f.t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		f.t.Error(err)
	}
	return path
}

// Unplug takes away what a stable name leads to, and returns what was on it.
func (f *Machine) Unplug(name string) *Content {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.devices[name]
	delete(f.devices, name)
	return &Content{d.disk}
}

// Content is what a disk holds.
type Content struct{ disk *disk }

// Junk is the content of a disk that somebody uses for something else.
func Junk() *Content { return &Content{&disk{junk: true}} }

// IsJunk tells whether it still is what Junk made.
func (c *Content) IsJunk() bool { return c.disk.junk && c.disk.box == nil }

// Group makes an empty volume group.
func (f *Machine) Group(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.groups[name] = map[string]*block{}
}

// Logical lists the logical volumes of a group.
func (f *Machine) Logical(group string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.groups[group]))
}

// blocks are all block devices that can lie below a mapping.
func (f *Machine) blocks() []*block {
	all := slices.Collect(maps.Values(f.loops))
	all = slices.AppendSeq(all, maps.Values(f.devices))
	for _, group := range f.groups {
		all = slices.AppendSeq(all, maps.Values(group))
	}
	return all
}

// Identify implements volume.Backings.
func (p backings) Identify(path string) (sys.BlockID, error) {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return sys.BlockID{}, err
	}
	defer unlock()
	if d := p.m.device(path); d != nil {
		return d.id, nil
	}
	return sys.BlockID{}, &os.PathError{Op: "stat", Path: path, Err: fs.ErrNotExist}
}

// device finds a disk by a name that stays with it, or a logical volume by its node.
func (f *Machine) device(path string) *block {
	if d := f.devices[path]; d != nil {
		return d
	}
	for _, group := range f.groups {
		for _, l := range group {
			if l.Name == path {
				return l
			}
		}
	}
	return nil
}

type device struct {
	*process
	place volume.Place
}

// find gives the disk that the name leads to, if it is the right one.
func (p device) find(ctx context.Context) (*block, error) {
	unlock, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	d := p.m.device(p.place.Device)
	if d == nil {
		return nil, &os.PathError{Op: "stat", Path: p.place.Device, Err: fs.ErrNotExist}
	}
	return d, p.same(d.id)
}

func (p device) same(now sys.BlockID) error {
	if len(p.place.ID.Names()) > 0 {
		now.Size = p.place.ID.Size
	}
	if now != p.place.ID {
		return &backing.OtherError{Msg: fmt.Sprintf("%s leads to another device: %s", p.place.Device, now)}
	}
	return nil
}

func (p device) Create(context.Context, int64, string) error {
	return &os.PathError{Op: "create", Path: p.place.Device, Err: fs.ErrNotExist}
}

func (p device) Size(ctx context.Context) (int64, error) { return sizeOf(p.find(ctx)) }

func sizeOf(d *block, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return d.disk.size - backing.HeaderSize, nil
}

func (p *process) Room() (missing, left int64, err error) { return 0, 0, nil }

func (p device) Attach(ctx context.Context) (volume.Attachment, error) {
	d, err := p.find(ctx)
	if err != nil {
		return nil, err
	}
	return p.attach(d)
}

func (p *process) attach(d *block) (volume.Attachment, error) {
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	done, err := p.step("attach %s", d.Name)
	if err != nil {
		return nil, err
	}
	a := p.hold(d)
	done()
	return a, p.alive()
}

func (p *process) Detach(context.Context) error { return nil }

func (p device) Door(ctx context.Context) (string, error) { return nodeOf(p.find(ctx)) }

func nodeOf(d *block, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return d.Name, nil
}

func (p device) Users() ([]string, error) { return p.usersOf(p.find(context.Background())) }

func (p *process) usersOf(d *block, err error) ([]string, error) {
	if err != nil {
		return nil, err
	}
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	var users []string
	for _, m := range p.m.mappings {
		if m.lower == d {
			users = append(users, m.name)
		}
	}
	return users, nil
}

// Is goes by the disk, wherever the name leads.
func (p device) Is(dev sys.Dev) error {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	for _, m := range p.m.mappings {
		if m.lower.Major == dev.Major && m.lower.Minor == dev.Minor && m.lower.id != (sys.BlockID{}) {
			return p.same(m.lower.id)
		}
	}
	return &backing.OtherError{Msg: "it is no such disk"}
}

// Enlarge makes the disk that a name leads to larger, as a cloud does while it is used.
func (f *Machine) Enlarge(name string, size int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.devices[name]
	d.size, d.disk.size, d.id.Size = size, size, size
}

func (p device) Grow(ctx context.Context, size int64, _ string) error {
	have, err := p.Size(ctx)
	if err == nil && have < size {
		err = &backing.NoSpaceError{Path: p.place.Device, Need: size, Avail: have}
	}
	return err
}

func (p device) Wipe(ctx context.Context, dev string) error {
	unlock, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	d, _, err := p.m.disk(dev)
	if err != nil {
		return err
	}
	if d.box != nil && d.box.managed() && d.box.served {
		p.m.misuse("volume %s is wiped", d.box.uuid)
	}
	done, err := p.step("wipe %s", dev)
	if err != nil {
		return err
	}
	d.junk, d.box = false, nil
	done()
	return p.alive()
}

func (p device) Erase(ctx context.Context) (backing.Erased, error) {
	d, err := p.find(ctx)
	if err != nil {
		return backing.Erased{}, err
	}
	if users, err := p.Users(); err != nil || len(users) > 0 {
		return backing.Erased{}, errors.Join(err, backing.ErrInUse)
	}
	e, err := p.erase(ctx, d.disk, p.place.Device)
	if err != nil {
		return e, err
	}
	return e, p.Wipe(ctx, d.Name)
}

func (p device) Remove(context.Context) error { return nil }

type logical struct {
	*process
	place volume.Place
}

func (p logical) name() string { return "voluks-" + p.place.UUID }

func (p logical) find(ctx context.Context) (*block, error) {
	unlock, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	group := p.m.groups[p.place.VG]
	if group == nil {
		return nil, fmt.Errorf("no volume group %s", p.place.VG)
	}
	if l := group[p.name()]; l != nil {
		return l, nil
	}
	return nil, &os.PathError{Op: "find", Path: p.name(), Err: fs.ErrNotExist}
}

// Create takes two writes: the logical volume appears, and then it has its name.
func (p logical) Create(ctx context.Context, size int64, alloc string) error {
	if _, err := p.find(ctx); err == nil {
		return &os.PathError{Op: "create", Path: p.name(), Err: fs.ErrExist}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	unlock, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	group, half := p.m.groups[p.place.VG], p.name()+"-new"
	done, err := p.step("lvcreate %s", half)
	if err != nil {
		return err
	}
	p.m.disksMade++
	node := "/dev/mapper/" + p.place.VG + "-" + strings.ReplaceAll(p.name(), "-", "--")
	group[half] = &block{
		Dev: sys.Dev{Major: dmMajor, Minor: 1000 + p.m.disksMade, Name: node}, pinned: true,
		disk: &disk{size: size + backing.HeaderSize}, size: size + backing.HeaderSize, path: p.m.scratch(),
	}
	done()
	if done, err = p.step("lvrename %s", p.name()); err != nil {
		if !p.dead {
			delete(group, half)
		}
		return err
	}
	group[p.name()] = group[half]
	delete(group, half)
	done()
	return p.alive()
}

func (p logical) Size(ctx context.Context) (int64, error) { return sizeOf(p.find(ctx)) }

func (p logical) Grow(ctx context.Context, size int64, _ string) error {
	l, err := p.find(ctx)
	if err != nil {
		return err
	}
	unlock, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	full := size + backing.HeaderSize
	if l.size >= full {
		return nil
	}
	done, err := p.step("lvextend %s", p.name())
	if err != nil {
		return err
	}
	l.size, l.disk.size = full, full
	done()
	return p.alive()
}

func (p logical) Attach(ctx context.Context) (volume.Attachment, error) {
	l, err := p.find(ctx)
	if err != nil {
		return nil, err
	}
	return p.attach(l)
}

func (p logical) Door(ctx context.Context) (string, error) { return nodeOf(p.find(ctx)) }

func (p logical) Users() ([]string, error) { return p.usersOf(p.find(context.Background())) }

func (p logical) Is(dev sys.Dev) error {
	l, err := p.find(context.Background())
	if err == nil && (l.Major != dev.Major || l.Minor != dev.Minor) {
		err = &backing.OtherError{Msg: "it is another logical volume"}
	}
	return err
}

func (p logical) Wipe(context.Context, string) error {
	p.m.misuse("logical volume %s is wiped", p.name())
	return errors.New("misuse")
}

func (p logical) Erase(ctx context.Context) (backing.Erased, error) {
	l, err := p.find(ctx)
	if err != nil {
		return backing.Erased{}, err
	}
	if users, err := p.Users(); err != nil || len(users) > 0 {
		return backing.Erased{}, errors.Join(err, backing.ErrInUse)
	}
	return p.erase(ctx, l.disk, p.name())
}

func (p logical) Remove(ctx context.Context) error {
	if users, err := p.Users(); err == nil && len(users) > 0 {
		return backing.ErrInUse
	}
	unlock, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	group := p.m.groups[p.place.VG]
	for _, name := range []string{p.name(), p.name() + "-new"} {
		l := group[name]
		if l == nil {
			continue
		}
		if l.disk.box != nil && l.disk.box.served {
			p.m.misuse("the logical volume of a volume that was in use is removed: %s", name)
		}
		done, err := p.step("lvremove %s", name)
		if err != nil {
			return err
		}
		delete(group, name)
		done()
	}
	return p.alive()
}
