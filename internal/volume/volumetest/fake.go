// SPDX-License-Identifier: Apache-2.0

// Package volumetest has a machine of paper for tests of package volume: disks that survive a reboot, a kernel that does not, and processes that can be
// killed after any write. And it has the conformance suite that this machine and the real thing both pass.
package volumetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks"
)

// ErrKilled is what a killed process gets from everything that it still tries: nothing of it has an effect.
var ErrKilled = errors.New("volumetest: this process is dead")

// Machine is one node. Its disks are memory, keyed by the inode of the file that stands for the image; small files lie in the real file system. It is
// strict: what no correct program would ask of a kernel (formatting a container that was in use, two mappings of one image, a header written behind
// the loop device's back) fails the test at once.
type Machine struct {
	t testing.TB

	mu         sync.Mutex
	disks      map[fileID]*disk
	backups    map[string][]snapshot // of headers, by UUID
	copied     []snapshot            // by somebody else
	loops      map[uint32]*block
	devices    map[string]*block            // what stable names lead to
	groups     map[string]map[string]*block // volume groups, with what is in them by name
	mappings   map[string]*mapping
	mounts     []*mount // of the host, in the order of mounting
	namespaces []*namespace
	open       map[string]bool // mountpoints below which a process of the host has files open
	processes  map[int]uint64  // pid to start time
	bare       map[string]bool // bare mountpoints
	nextID     int             // of mounts
	boots      int
	disksMade  uint32
	log        []string
	rotating   bool  // of all disks
	weak       bool  // bare mountpoints cannot be made immutable
	unknown    bool  // /proc cannot be read
	apart      bool  // mounts do not reach the host
	left       int64 // bytes free on the disk below
}

type fileID struct{ dev, ino uint64 }

// block is a block device below mappings: a loop device over a file, which goes with its last user, or one that stays.
type block struct {
	sys.Dev // with the path of its node as name
	id      sys.BlockID
	disk    *disk
	size    int64  // bytes; a loop device does not grow with its file by itself
	file    fileID // of a loop device
	path    string // of that file
	refs    int    // open attachments
	pinned  bool   // does not go with its last user
}

type mapping struct {
	name, uuid string
	minor      uint32
	lower      *block
	length     int64 // bytes
	options    luks.Flags
	box        *container
	suspended  bool
	errors     int    // that the file system on it has seen
	table      string // overrides the crypt target, for tests of the proof
}

type mount struct {
	id, parent int
	target     string
	root       string
	fstype     string
	source     string
	major      uint32
	minor      uint32
	mapping    *mapping // nil: somebody else's
	fs         *fsys
}

// namespace is a mount namespace other than the host's.
type namespace struct {
	PID    int
	mounts []*mount
}

const (
	loopMajor = 7
	dmMajor   = 254
	rootID    = 1
)

// NewMachine makes a machine that was just booted and has empty disks.
func NewMachine(t testing.TB) *Machine {
	return &Machine{
		t: t, disks: map[fileID]*disk{}, backups: map[string][]snapshot{}, loops: map[uint32]*block{}, devices: map[string]*block{}, groups: map[string]map[string]*block{}, mappings: map[string]*mapping{}, open: map[string]bool{},
		processes: map[int]uint64{}, bare: map[string]bool{}, left: 1 << 40, rotating: true, nextID: rootID + 1, boots: 1,
	}
}

// misuse fails the test: the program under test did something that destroys data or cannot happen.
func (f *Machine) misuse(format string, args ...any) {
	f.t.Helper()
	f.t.Errorf("misuse of storage: "+format, args...)
}

// Log returns every write so far, one line each.
func (f *Machine) Log() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.log)
}

// Reboot takes the power away: everything of the kernel is gone, the disks stay. The caller clears its runtime directory.
func (f *Machine) Reboot() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loops, f.mappings = map[uint32]*block{}, map[string]*mapping{}
	f.mounts, f.namespaces, f.open = nil, nil, map[string]bool{}
	f.processes = map[int]uint64{}
	f.boots++
	f.log = append(f.log, "reboot")
}

// Tables describes what the kernel holds; empty on a clean machine.
func (f *Machine) Tables() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for _, l := range f.loops {
		all = append(all, fmt.Sprintf("%s over %s", l.Name, l.path))
	}
	for name := range f.mappings {
		all = append(all, "mapping "+name)
	}
	for _, m := range f.mounts {
		all = append(all, "mount "+m.target)
	}
	slices.Sort(all)
	return all
}

// process is one program that runs on a machine, as a Storage sees it.
type process struct {
	m       *Machine
	steps   int
	killAt  int   // 0: never
	failAt  int   // 0: never
	failure error // of step failAt
	dead    bool
	held    []*block // open attachments
}

// step announces a write. An error means that it does not take place. The returned function is called when it has taken place.
func (p *process) step(format string, args ...any) (done func(), err error) {
	if p.dead {
		return nil, ErrKilled
	}
	p.steps++
	what := fmt.Sprintf(format, args...)
	if p.steps == p.failAt {
		p.m.log = append(p.m.log, "fail "+what)
		return nil, p.failure
	}
	p.m.log = append(p.m.log, what)
	kill := p.steps == p.killAt
	return func() {
		if kill {
			p.m.log = append(p.m.log, "kill")
			p.die()
		}
	}, nil
}

// die closes what the process has open, as the kernel does.
func (p *process) die() {
	p.dead = true
	for _, l := range p.held {
		l.refs--
		p.m.autoclear(l)
	}
	p.held = nil
}

// begin takes the machine's lock; every method of the storage starts so.
func (p *process) begin(ctx context.Context) (func(), error) {
	p.m.mu.Lock()
	if p.dead {
		p.m.mu.Unlock()
		return nil, ErrKilled
	}
	if ctx.Err() != nil {
		p.m.mu.Unlock()
		return nil, ctx.Err()
	}
	return p.m.mu.Unlock, nil
}

// autoclear unbinds a loop device that nobody uses.
func (f *Machine) autoclear(l *block) {
	if l.refs > 0 || l.pinned {
		return
	}
	for _, m := range f.mappings {
		if m.lower == l {
			return
		}
	}
	if f.loops[l.Minor] == l {
		delete(f.loops, l.Minor)
	}
}

func (f *Machine) loopOver(id fileID) *block {
	for _, l := range f.loops {
		if l.file == id {
			return l
		}
	}
	return nil
}

// disk is the one behind a path: of an image, or of a block device.
func (f *Machine) disk(path string) (*disk, *block, error) {
	for _, l := range f.blocks() {
		if l.Name == path {
			return l.disk, l, nil
		}
	}
	if strings.HasPrefix(path, "/dev/loop") {
		return nil, nil, &os.PathError{Op: "open", Path: path, Err: errors.New("no such device or address")}
	}
	id, err := identify(path)
	if err != nil {
		return nil, nil, err
	}
	d := f.disks[id]
	if d == nil {
		return nil, nil, fmt.Errorf("%s is no image", path)
	}
	if f.loopOver(id) != nil {
		f.misuse("%s is used behind the back of the loop device over it", path)
	}
	return d, nil, nil
}

func identify(path string) (fileID, error) {
	file, err := os.Open(path)
	if err != nil {
		return fileID{}, err
	}
	defer file.Close()
	dev, ino, err := sys.FileID(file)
	return fileID{dev, ino}, err
}

// mappingOf is the mapping behind /dev/mapper/NAME.
func (f *Machine) mappingOf(dev string) (*mapping, error) {
	m := f.mappings[strings.TrimPrefix(dev, "/dev/mapper/")]
	if m == nil {
		return nil, &os.PathError{Op: "open", Path: dev, Err: fs.ErrNotExist}
	}
	return m, nil
}

// top is the uppermost mount on a target.
func (f *Machine) top(target string) *mount {
	for _, m := range slices.Backward(f.mounts) {
		if m.target == target {
			return m
		}
	}
	return nil
}

// add puts a mount on top of whatever is visible at its target.
func (f *Machine) add(m *mount) {
	m.id, m.parent = f.nextID, rootID
	f.nextID++
	for dir := m.target; dir != "/"; dir = filepath.Dir(dir) {
		if over := f.top(dir); over != nil {
			m.parent = over.id
			break
		}
	}
	f.mounts = append(f.mounts, m)
}
