// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"

	"github.com/voluks/voluks/internal/volume"
)

// Process is a program on a machine. Its Storage counts writes, and can be made to fail or to die at one of them.
type Process struct{ p *process }

// Process starts a program.
func (f *Machine) Process() *Process { return &Process{&process{m: f}} }

// Storage is the machine as this process sees it.
func (p *Process) Storage() volume.Storage {
	return volume.Storage{
		Files: files{process: p.p}, Backings: backings{p.p}, Containers: containers{p.p}, Filesystems: filesystems{p.p}, Kernel: kernel{p.p},
	}
}

// KillAt makes the process die right after its write number k, counted from 1: the write has taken place, and nothing that the program does later has
// an effect.
func (p *Process) KillAt(k int) { p.p.killAt = k }

// FailAt makes write number k fail with err, without effect.
func (p *Process) FailAt(k int, err error) { p.p.failAt, p.p.failure = k, err }

// Steps is how many writes the process has done or tried.
func (p *Process) Steps() int {
	p.p.m.mu.Lock()
	defer p.p.m.mu.Unlock()
	return p.p.steps
}

// Dead tells whether the process was killed.
func (p *Process) Dead() bool {
	p.p.m.mu.Lock()
	defer p.p.m.mu.Unlock()
	return p.p.dead
}

// Kill ends the process now.
func (p *Process) Kill() {
	p.p.m.mu.Lock()
	defer p.p.m.mu.Unlock()
	if !p.p.dead {
		p.p.m.log = append(p.p.m.log, "kill")
		p.p.die()
	}
}

// Enter makes a container: a mount namespace of its own, with the data directory of what is mounted on target, and a process in it. The file system
// stays in use until Leave.
func (f *Machine) Enter(target string, pid int) {
	f.t.Helper()
	f.bind(target, pid, "/data", "/var/lib/data")
}

// Copy makes a mount namespace with a private copy of the mount on target, as a service with a namespace of its own has it. Unlike a real one of that
// kind, it does not follow an unmount.
func (f *Machine) Copy(target string, pid int) {
	f.t.Helper()
	f.bind(target, pid, "/", "")
}

func (f *Machine) bind(target string, pid int, root, at string) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	real, err := filepath.EvalSymlinks(target)
	if err != nil {
		f.t.Fatal(err)
	}
	top := f.top(real)
	if top == nil {
		f.t.Fatalf("nothing is mounted on %s", target)
	}
	m := *top
	m.id, m.parent, m.root = f.nextID, rootID, root
	f.nextID++
	if at != "" {
		m.target = at
	}
	f.namespaces = append(f.namespaces, &namespace{PID: pid, mounts: []*mount{&m}})
}

// Leave ends a container.
func (f *Machine) Leave(pid int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, ns := range f.namespaces {
		if ns.PID == pid {
			f.namespaces = append(f.namespaces[:i], f.namespaces[i+1:]...)
			return
		}
	}
	f.t.Errorf("no container %d", pid)
}

// Start notes that a process with that pid began at start; 0 ends it.
func (f *Machine) Start(pid int, start uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.processes[pid] = start
	if start == 0 {
		delete(f.processes, pid)
	}
}

// Blind makes every look into /proc/PID fail.
func (f *Machine) Blind(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unknown = on
}

// Apart puts the program into a mount namespace from which its mounts do not reach the host.
func (f *Machine) Apart(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.apart = on
}

// Weak makes bare mountpoints writable for root.
func (f *Machine) Weak(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.weak = on
}

// Fill leaves so many bytes on the disk that images lie on.
func (f *Machine) Fill(left int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left = left
}

// KeepOpen makes a process of the host have a file open below a mountpoint.
func (f *Machine) KeepOpen(target string, on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open[target] = on
}

// MountOther mounts something that is not voluks's: a plain directory or disk.
func (f *Machine) MountOther(target, root, fstype, source string, major, minor uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if real, err := filepath.EvalSymlinks(target); err == nil {
		target = real
	}
	f.add(&mount{target: target, root: root, fstype: fstype, source: source, major: major, minor: minor})
}

// Tamper lets a test change what the kernel says of the mapping of a container. edit gets the mapping's name, UUID and crypt parameters.
func (f *Machine) Tamper(uuid string, edit func(name, uuid, params *string)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, m := range f.mappings {
		if m.uuid == uuid {
			delete(f.mappings, key)
			edit(&m.name, &m.uuid, &m.table)
			f.mappings[m.name] = m
			return
		}
	}
	f.t.Fatalf("container %s is not open", uuid)
}

// Suspend suspends or resumes the mapping of a container.
func (f *Machine) Suspend(uuid string, on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.mappings {
		if m.uuid == uuid {
			m.suspended = on
			return
		}
	}
	f.t.Fatalf("container %s is not open", uuid)
}

// Break makes the file system in a container see an I/O error.
func (f *Machine) Break(uuid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.mappings {
		if m.uuid == uuid {
			m.errors++
		}
	}
}

// Pin binds an image to a loop device as another program would.
func (f *Machine) Pin(image string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id, err := identify(image)
	if err != nil {
		f.t.Fatal(err)
	}
	f.bound(id, image, 90).pinned = true
}

// Damage ruins both copies of the header in an image; Blank makes a blank image of it, and Junk puts something that is not a header there.
func (f *Machine) Damage(image string) { f.ruin(image, func(d *disk) { d.box.damaged = true }) }

// Blank makes an image read as zeros, as a device that is broken may.
func (f *Machine) Blank(image string) { f.ruin(image, func(d *disk) { d.box, d.junk = nil, false }) }

// Junk makes an image hold something that is not a header.
func (f *Machine) Junk(image string) { f.ruin(image, func(d *disk) { d.box, d.junk = nil, true }) }

// Kick makes a header look as if somebody else had written it, to no effect.
func (f *Machine) Kick(image string) { f.ruin(image, func(d *disk) { d.box.epoch++ }) }

// Cut shortens an image by half.
func (f *Machine) Cut(image string) { f.ruin(image, func(d *disk) { d.size /= 2 }) }

func (f *Machine) ruin(image string, how func(*disk)) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	id, err := identify(image)
	if err != nil {
		f.t.Fatal(err)
	}
	how(f.disks[id])
}

// Container tells of the container in an image: its UUID, how often its header was written, and whether it was ever complete. ok is false without one.
func (f *Machine) Container(image string) (uuid string, epoch uint64, complete, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id, err := identify(image)
	if err != nil {
		return "", 0, false, false
	}
	d := f.disks[id]
	if d == nil || d.box == nil {
		return "", 0, false, false
	}
	return d.box.uuid, d.box.epoch, d.box.complete(), true
}

// Slots is how many key slots the container in an image has.
func (f *Machine) Slots(image string) (n int) {
	f.ruin(image, func(d *disk) { n = len(d.box.slots) })
	return n
}

// Put writes a file into what is mounted at dir, as a container would; Get reads it back.
func (f *Machine) Put(dir, name, content string) {
	f.t.Helper()
	if m, err := f.users(dir); err != nil {
		f.t.Fatal(err)
	} else {
		m.files[name] = content
	}
}

// Get reads what Put wrote; empty if it is not there.
func (f *Machine) Get(dir, name string) string {
	f.t.Helper()
	m, err := f.users(dir)
	if err != nil {
		f.t.Fatal(err)
	}
	return m.files[name]
}

func (f *Machine) users(dir string) (*fsys, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := f.top(filepath.Dir(dir))
	if m == nil || m.fs == nil {
		return nil, errors.New(dir + " is not in a mounted volume: this would be plaintext")
	}
	return m.fs, nil
}

// UnmountAt takes the uppermost mount off a target behind voluks's back, whosever it is.
func (f *Machine) UnmountAt(target string) {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	top := f.top(target)
	for i, m := range f.mounts {
		if m == top {
			f.mounts = append(f.mounts[:i], f.mounts[i+1:]...)
			return
		}
	}
	f.t.Errorf("nothing is mounted on %s", target)
}

// UnmountAll takes every mount of the host away behind voluks's back.
func (f *Machine) UnmountAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mounts = nil
}

// Snapshot copies the header in an image, and returns what puts it back behind voluks's back, as the restore of a backup does.
func (f *Machine) Snapshot(image string) (restore func()) {
	f.t.Helper()
	var slots map[int]slot
	var tokens map[int]json.RawMessage
	f.ruin(image, func(d *disk) { slots, tokens = maps.Clone(d.box.slots), maps.Clone(d.box.tokens) })
	return func() {
		f.ruin(image, func(d *disk) { d.box.slots, d.box.tokens = maps.Clone(slots), maps.Clone(tokens) })
	}
}
