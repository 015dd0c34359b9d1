// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/sys"
)

type filesystems struct{ *process }

// Make takes three writes: the old content is gone, a signature is there, the file system is whole.
func (p filesystems) Make(ctx context.Context, dev string, s filesystem.Spec, extra ...*os.File) error {
	unlock, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	m, err := p.m.mappingOf(dev)
	if err != nil {
		return err
	}
	if m.box.complete() || m.box.served || m.box.fs != nil && len(m.box.fs.files) > 0 {
		p.m.misuse("mkfs over the file system of a complete volume, %s", m.uuid)
		return errors.New("misuse")
	}
	if p.m.uses(m) {
		p.m.misuse("mkfs under a mount of %s", dev)
	}
	done, err := p.step("mkfs %s: begin", dev)
	if err != nil {
		return err
	}
	made := &fsys{}
	m.box.fs = made
	done()
	if done, err = p.step("mkfs %s: signature", dev); err != nil {
		return err
	}
	made.typ, made.uuid = string(s.Type), s.UUID
	done()
	if done, err = p.step("mkfs %s: end", dev); err != nil {
		return err
	}
	made.size = m.length
	made.whole, made.files = true, map[string]string{}
	done()
	return p.alive()
}

func (p filesystems) Probe(ctx context.Context, dev string) (*filesystem.Signature, error) {
	unlock, err := p.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	m, err := p.m.mappingOf(dev)
	if err != nil || m.box.fs == nil || m.box.fs.typ == "" {
		return nil, err
	}
	return &filesystem.Signature{Type: m.box.fs.typ, UUID: m.box.fs.uuid}, nil
}

func (p filesystems) Mount(ctx context.Context, dev, target string, s filesystem.Spec) error {
	unlock, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	m, err := p.m.mappingOf(dev)
	if err != nil {
		return err
	}
	if f := m.box.fs; f == nil || !f.whole || f.typ != string(s.Type) {
		return fmt.Errorf("mount %s: bad superblock", dev)
	}
	if m.box.fs.size > m.length {
		return fmt.Errorf("mount %s: the device is smaller than its file system", dev)
	}
	target, err = filepath.EvalSymlinks(target)
	if err != nil {
		return err
	}
	if over := p.m.top(target); over != nil && over.mapping == m {
		p.m.misuse("%s is mounted twice on %s", dev, target)
	}
	done, err := p.step("mount %s on %s", dev, short(target))
	if err != nil {
		return err
	}
	if filepath.Base(filepath.Dir(target)) != "private" {
		m.box.served = true
	}
	p.m.add(&mount{
		target: target, root: "/", fstype: m.box.fs.typ, source: dev, major: dmMajor, minor: m.minor, mapping: m, fs: m.box.fs,
	})
	done()
	return p.alive()
}

func (p filesystems) Grow(ctx context.Context, dev, target string, t filesystem.Type, extra ...*os.File) error {
	unlock, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	m, err := p.m.mappingOf(dev)
	if err != nil {
		return err
	}
	f, err := p.mounted(target)
	if err != nil {
		return err
	}
	if f != m.box.fs || f.typ != string(t) {
		p.m.misuse("what is on %s is not the %s of %s", target, t, dev)
	}
	if f.size == m.length {
		return nil
	}
	done, err := p.step("grow %s", dev)
	if err != nil {
		return err
	}
	f.size = m.length
	done()
	return p.alive()
}

func (p filesystems) Trim(target string) (int64, error) {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return 0, err
	}
	defer unlock()
	f, err := p.mounted(target)
	if err != nil {
		return 0, err
	}
	if !p.m.top(target).mapping.options.Discards {
		return 0, syscall.EOPNOTSUPP
	}
	return f.size / 2, nil
}

func (p filesystems) Unmount(ctx context.Context, target string) error {
	unlock, err := p.begin(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if real, err := filepath.EvalSymlinks(target); err == nil {
		target = real
	}
	top := p.m.top(target)
	if top == nil {
		p.m.misuse("unmount of %s, where nothing is mounted", target)
		return sys.ErrNotExist
	}
	if top.mapping == nil {
		p.m.misuse("unmount of %s, which is somebody else's", target)
	}
	if p.m.open[target] {
		return fmt.Errorf("unmount %s: %w", target, sys.ErrBusy)
	}
	done, err := p.step("unmount %s", short(target))
	if err != nil {
		return err
	}
	for i, m := range p.m.mounts {
		if m == top {
			p.m.mounts = append(p.m.mounts[:i], p.m.mounts[i+1:]...)
			break
		}
	}
	done()
	return p.alive()
}

// mounted is the file system that is visible at mnt.
func (p filesystems) mounted(mnt string) (*fsys, error) {
	real, err := filepath.EvalSymlinks(mnt)
	if err != nil {
		return nil, err
	}
	m := p.m.top(real)
	if m == nil || m.fs == nil {
		p.m.misuse("%s is used as if it were mounted: plaintext", mnt)
		return nil, errors.New("not mounted")
	}
	return m.fs, nil
}

func (p filesystems) MakeData(mnt string, uid, gid int, mode fs.FileMode) error {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	f, err := p.mounted(mnt)
	if err != nil || f.data {
		return err
	}
	done, err := p.step("make data directory in %s", short(mnt))
	if err != nil {
		return err
	}
	f.data, f.uid, f.gid = true, uid, gid
	done()
	return p.alive()
}

func (p filesystems) HasData(mnt string) (bool, error) {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return false, err
	}
	defer unlock()
	f, err := p.mounted(mnt)
	return err == nil && f.data, err
}

func (p filesystems) MakeBare(mnt string) (bool, error) {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return false, err
	}
	defer unlock()
	if p.m.bare[mnt] {
		return !p.m.weak, nil
	}
	done, err := p.step("make mountpoint %s", short(mnt))
	if err != nil {
		return false, err
	}
	if err := os.Mkdir(mnt, 0); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	p.m.bare[mnt] = true
	done()
	return !p.m.weak, p.alive()
}

func (p filesystems) RemoveBare(mnt string) error {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Lstat(mnt); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if real, err := filepath.EvalSymlinks(mnt); err == nil && p.m.top(real) != nil {
		p.m.misuse("mountpoint %s is removed under a mount", mnt)
		return sys.ErrBusy
	}
	done, err := p.step("remove mountpoint %s", short(mnt))
	if err != nil {
		return err
	}
	if err := os.Remove(mnt); err != nil {
		return err
	}
	delete(p.m.bare, mnt)
	done()
	return p.alive()
}

func (p filesystems) Usage(path string) (filesystem.Usage, error) {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return filesystem.Usage{}, err
	}
	defer unlock()
	f := p.m.top(filepath.Dir(path))
	if f == nil || f.fs == nil {
		f = p.m.top(path)
	}
	if f == nil || f.fs == nil {
		return filesystem.Usage{}, errors.New("volumetest: nothing is mounted on " + path)
	}
	const used = 1 << 20
	return filesystem.Usage{Size: f.fs.size, Used: used, Avail: f.fs.size - used}, nil
}
