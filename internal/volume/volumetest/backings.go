// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
)

type backings struct{ *process }

// At implements volume.Backings.
func (p backings) At(place volume.Place) volume.Backing {
	switch place.Kind {
	case volume.BackingDevice:
		return device{p.process, place}
	case volume.BackingLVM:
		return logical{p.process, place}
	}
	return image{p.process, filepath.Join(place.Dir, cmp.Or(place.File, "image"))}
}

type image struct {
	*process
	path string
}

// Create takes three writes: a file appears, then it is whole, then it has its name.
func (p image) Create(ctx context.Context, size int64, alloc string) error {
	unlock, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Lstat(p.path); err == nil {
		return &os.PathError{Op: "create", Path: p.path, Err: fs.ErrExist}
	}
	half := p.path + ".new"
	if err := p.remove(half); err != nil {
		return err
	}
	done, err := p.step("create %s", short(half))
	if err != nil {
		return err
	}
	file, err := os.OpenFile(half, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	dev, ino, err := sys.FileID(file)
	if err != nil {
		return err
	}
	d := &disk{}
	p.m.disks[fileID{dev, ino}] = d
	done()
	undo := func(err error) error {
		if !p.dead {
			os.Remove(half)
			delete(p.m.disks, fileID{dev, ino})
		}
		return err
	}
	if done, err = p.step("allocate %s", short(half)); err != nil {
		return undo(err)
	}
	d.size = size + backing.HeaderSize
	done()
	if done, err = p.step("rename to %s", short(p.path)); err != nil {
		return undo(err)
	}
	err = os.Rename(half, p.path)
	done()
	return errors.Join(err, p.alive())
}

// alive is the last line of every method with a write: the process may have been killed by it.
func (p *process) alive() error {
	if p.dead {
		return ErrKilled
	}
	return nil
}

func (p image) Size(ctx context.Context) (int64, error) {
	unlock, err := p.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	id, err := identify(p.path)
	if err != nil {
		return 0, err
	}
	if d := p.m.disks[id]; d != nil {
		return d.size - backing.HeaderSize, nil
	}
	return 0, fmt.Errorf("%s is no image", p.path)
}

// Grow takes two writes: the file is longer, and then its loop device.
func (p image) Grow(ctx context.Context, size int64, alloc string) error {
	unlock, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	id, err := identify(p.path)
	if err != nil {
		return err
	}
	d := p.m.disks[id]
	if full := size + backing.HeaderSize; d.size < full {
		if alloc == volume.AllocFull && p.m.left < full-d.size {
			return &backing.NoSpaceError{Path: p.path, Need: full - d.size, Avail: p.m.left}
		}
		done, err := p.step("lengthen %s", short(p.path))
		if err != nil {
			return err
		}
		d.size = full
		done()
	}
	if l := p.m.loopOver(id); l != nil && l.size < d.size && !p.dead {
		done, err := p.step("enlarge %s", l.Name)
		if err != nil {
			return err
		}
		l.size = d.size
		done()
	}
	return p.alive()
}

func (p image) Room() (missing, left int64, err error) {
	size, err := p.Size(context.Background())
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return size, p.m.left, err
}

func (p image) Attach(ctx context.Context) (volume.Attachment, error) {
	unlock, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	id, err := identify(p.path)
	if err != nil {
		return nil, err
	}
	l := p.m.loopOver(id)
	if l != nil && l.pinned {
		return nil, fmt.Errorf("attach %s: %w", p.path, backing.ErrInUse)
	}
	done, err := p.step("attach %s", short(p.path))
	if err != nil {
		return nil, err
	}
	if l == nil {
		l = p.m.bound(id, p.path, 0)
	}
	a := p.hold(l)
	done()
	return a, p.alive()
}

// bound makes a loop device over a file, with the first free number from minor on.
func (f *Machine) bound(id fileID, path string, minor uint32) *block {
	for f.loops[minor] != nil {
		minor++
	}
	l := &block{Dev: sys.Dev{Major: loopMajor, Minor: minor, Name: fmt.Sprintf("/dev/loop%d", minor)}, disk: f.disks[id], size: f.disks[id].size, file: id, path: path}
	f.loops[minor] = l
	return l
}

func (p *process) hold(b *block) *attachment {
	b.refs++
	p.held = append(p.held, b)
	return &attachment{p: p, block: b}
}

type attachment struct {
	p      *process
	block  *block
	closed bool
}

func (a *attachment) Dev() string { return a.block.Name }

func (a *attachment) Close() error {
	unlock, err := a.p.begin(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	if a.closed {
		return nil
	}
	a.closed = true
	for i, l := range a.p.held {
		if l == a.block {
			a.p.held = append(a.p.held[:i], a.p.held[i+1:]...)
			l.refs--
			a.p.m.autoclear(l)
			break
		}
	}
	return nil
}

// loop is the device over the image, if there is one.
func (p image) loop(ctx context.Context) (*block, error) {
	unlock, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	id, err := identify(p.path)
	if err != nil {
		return nil, err
	}
	return p.m.loopOver(id), nil
}

func (p image) Detach(ctx context.Context) error {
	l, err := p.loop(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && l != nil {
		err = fmt.Errorf("detach %s: %w", l.Name, sys.ErrBusy)
	}
	return err
}

func (p image) Door(ctx context.Context) (string, error) {
	l, err := p.loop(ctx)
	if err != nil || l == nil {
		return p.path, err
	}
	return l.Name, nil
}

func (p image) Users() ([]string, error) {
	l, err := p.loop(context.Background())
	if err != nil || l == nil {
		return nil, err
	}
	return []string{"its image is bound to " + l.Name}, nil
}

func (p image) Is(d sys.Dev) error {
	l, err := p.loop(context.Background())
	if err == nil && (l == nil || l.Major != d.Major || l.Minor != d.Minor) {
		err = &backing.OtherError{Msg: "it is no loop device over the image"}
	}
	return err
}

func (p *process) ProbeBlank(ctx context.Context, dev string) error {
	unlock, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	d, _, err := p.m.disk(dev)
	if err != nil {
		return err
	}
	if d.junk || d.box != nil {
		return &backing.NotBlankError{What: "data"}
	}
	return nil
}

func (p image) Wipe(context.Context, string) error {
	p.m.misuse("image %s is wiped", p.path)
	return errors.New("misuse")
}

// Erase takes two writes: the key slots go, and then the header.
func (p image) Erase(ctx context.Context) (backing.Erased, error) {
	l, err := p.loop(ctx)
	if err == nil && l != nil {
		err = backing.ErrInUse
	}
	if err != nil {
		return backing.Erased{}, err
	}
	id, err := identify(p.path)
	if err != nil {
		return backing.Erased{}, err
	}
	p.m.mu.Lock()
	d := p.m.disks[id]
	p.m.mu.Unlock()
	return p.erase(ctx, d, short(p.path))
}

func (p *process) erase(ctx context.Context, d *disk, what string) (backing.Erased, error) {
	unlock, err := p.begin(ctx)
	if err != nil {
		return backing.Erased{}, err
	}
	defer unlock()
	done, err := p.step("overwrite the key slots of %s", what)
	if err != nil {
		return backing.Erased{}, err
	}
	if d.box != nil {
		d.box.slots = map[int]slot{}
	}
	done()
	if done, err = p.step("overwrite the header of %s", what); err != nil {
		return backing.Erased{}, err
	}
	d.box, d.junk = nil, true
	done()
	return backing.Erased{Bytes: backing.HeaderSize}, p.alive()
}

func (p image) Remove(ctx context.Context) error {
	unlock, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return errors.Join(p.remove(p.path), p.remove(p.path+".new"))
}

func (p image) remove(path string) error {
	id, err := identify(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if p.m.loopOver(id) != nil {
		p.m.misuse("%s is removed under a loop device", path)
		return backing.ErrInUse
	}
	if d := p.m.disks[id]; d != nil && d.box != nil && d.box.served && d.box.managed() {
		p.m.misuse("the image of a volume that was in use is removed: %s", path)
	}
	done, err := p.step("remove %s", short(path))
	if err != nil {
		return err
	}
	delete(p.m.disks, id)
	err = os.Remove(path)
	done()
	return errors.Join(err, p.alive())
}

// short is the end of a path, for the log.
func short(path string) string {
	const keep = 2
	n := 0
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			if n++; n == keep {
				return path[i+1:]
			}
		}
	}
	return path
}
