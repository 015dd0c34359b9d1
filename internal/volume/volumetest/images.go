// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
)

type images struct{ *process }

// Create takes two writes: the file appears, and then it is whole.
func (p images) Create(ctx context.Context, path string, size int64, alloc string) error {
	unlock, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	done, err := p.step("create %s", short(path))
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
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
	if done, err = p.step("allocate %s", short(path)); err != nil {
		if !p.dead {
			os.Remove(path)
			delete(p.m.disks, fileID{dev, ino})
		}
		return err
	}
	d.size = size + backing.HeaderSize
	done()
	return p.alive()
}

// alive is the last line of every method with a write: the process may have been killed by it.
func (p *process) alive() error {
	if p.dead {
		return ErrKilled
	}
	return nil
}

func (p images) Size(path string) (int64, error) {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return 0, err
	}
	defer unlock()
	id, err := identify(path)
	if err != nil {
		return 0, err
	}
	if d := p.m.disks[id]; d != nil {
		return d.size - backing.HeaderSize, nil
	}
	return 0, fmt.Errorf("%s is no image", path)
}

func (p images) Room(path string) (missing, left int64, err error) {
	size, err := p.Size(path)
	p.m.mu.Lock()
	defer p.m.mu.Unlock()
	return size, p.m.left, err
}

func (p images) Attach(ctx context.Context, path string) (volume.Attachment, error) {
	unlock, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	id, err := identify(path)
	if err != nil {
		return nil, err
	}
	l := p.m.loopOver(id)
	if l != nil && l.pinned {
		return nil, fmt.Errorf("attach %s: %w", path, backing.ErrInUse)
	}
	done, err := p.step("attach %s", short(path))
	if err != nil {
		return nil, err
	}
	if l == nil {
		l = &loop{file: id, path: path}
		for p.m.loops[l.minor] != nil {
			l.minor++
		}
		p.m.loops[l.minor] = l
	}
	l.refs++
	p.held = append(p.held, l)
	done()
	return &attachment{p: p.process, loop: l}, p.alive()
}

type attachment struct {
	p      *process
	loop   *loop
	closed bool
}

func (a *attachment) Dev() string { return fmt.Sprintf("/dev/loop%d", a.loop.minor) }

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
		if l == a.loop {
			a.p.held = append(a.p.held[:i], a.p.held[i+1:]...)
			l.refs--
			a.p.m.autoclear(l)
			break
		}
	}
	return nil
}

func (p images) Detach(ctx context.Context, path string) error {
	unlock, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	id, err := identify(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if l := p.m.loopOver(id); l != nil {
		return fmt.Errorf("detach /dev/loop%d: %w", l.minor, sys.ErrBusy)
	}
	return nil
}

func (p images) ProbeBlank(ctx context.Context, dev string) error {
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

func (p images) Remove(ctx context.Context, path string) error {
	unlock, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
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
	if d := p.m.disks[id]; d != nil && d.box != nil && d.box.served {
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
