// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks"
)

// The proof that a path is encrypted (safety rule 2). It is one chain, from the path down to the ciphertext, and each link is read from the kernel
// at the moment of asking:
//
//	path → the mount that is visible there, of the file system's root → its device (of a btrfs: its only device) → a device-mapper device whose
//	UUID names our LUKS UUID → exactly one crypt target, with our cipher, key size, sector size and offset → the device below it → our backing
//
// Mount, Path, Inspect and List all ask this code, and nothing else ever gives a path out.

// view is one look at the kernel's tables, shared by the proofs of many volumes.
type view struct {
	mounts   []sys.MountInfo
	tree     mountTree
	mappings []sys.DMDevice
	// mountsDir is where volumes are mounted, as the kernel's tables have it: without symbolic links on the way. Empty if it does not exist.
	mountsDir string

	drillEvery time.Duration // as the configuration has it; 0: not asked for

	spaces *spacesView // made when first asked for
}

// spacesView is one look into all mount namespaces, which costs a walk through all processes.
type spacesView struct {
	spaces []sys.MountNamespace
	err    error
}

// mountpoint is where a volume is mounted; empty if none can be.
func (v *view) mountpoint(name string) string {
	if v.mountsDir == "" {
		return ""
	}
	return filepath.Join(v.mountsDir, name)
}

// namespaces are all mount namespaces at the time of the first question.
func (m *Manager) namespaces(v *view) ([]sys.MountNamespace, error) {
	if v.spaces == nil {
		spaces, err := m.s.Kernel.Namespaces()
		v.spaces = &spacesView{spaces, err}
	}
	return v.spaces.spaces, v.spaces.err
}

func (m *Manager) look() (*view, error) {
	// Mappings first: a volume that is being closed meanwhile then has a mapping and no mount, as during the closing itself.
	mappings, err := m.s.Kernel.Mappings()
	if err != nil && !errors.Is(err, sys.ErrNoDeviceMapper) { // without device-mapper there positively is no mapping
		return nil, err
	}
	mounts, err := m.s.Kernel.Mounts()
	if err != nil {
		return nil, err
	}
	dir, err := m.mountsDir()
	if err != nil && !errors.Is(err, ErrNotMounted) {
		return nil, err
	}
	return &view{mounts: mounts, tree: newMountTree(mounts), mappings: mappings, mountsDir: dir}, nil
}

// ProofError is a broken link in the chain from a path to its ciphertext. Whatever is at that path is not given out.
type ProofError struct {
	Link string // mount, root, hidden, data, device, mapping, table, backing
	Msg  string // what does not hold
}

// Error implements error.
func (e *ProofError) Error() string { return "not proven to be encrypted: " + e.Msg }

func broken(link, format string, args ...any) error {
	return &Error{Code: CodePlaintext, Err: &ProofError{link, fmt.Sprintf(format, args...)}}
}

// proven is a mounted volume for which the chain holds.
type proven struct {
	path    string // the directory for users
	mount   sys.MountInfo
	mapping *sys.DMDevice
}

// prove goes through the chain. ErrNotMounted if nothing is mounted where the volume belongs; ErrPlaintext around a *ProofError if something is, and
// is not this volume; any other error if that could not be found out.
func (m *Manager) prove(v *view, r *record) (*proven, error) {
	mountpoint := v.mountpoint(r.Name)
	if mountpoint == "" {
		return nil, ErrNotMounted
	}
	mount, ok := v.tree.visible(mountpoint)
	if !ok {
		return nil, broken("mount", "the host's mount table has no root")
	}
	if mount.Mountpoint != mountpoint {
		for _, other := range v.mounts {
			if other.Mountpoint == mountpoint {
				return nil, broken("hidden", "%s is hidden by a mount on %s", mountpoint, mount.Mountpoint)
			}
		}
		return nil, ErrNotMounted
	}
	if mount.Root != "/" {
		return nil, broken("root", "%s shows the directory %s of a file system, not its root", mountpoint, mount.Root)
	}
	data := path.Join(mountpoint, filesystem.DataDir)
	if over, _ := v.tree.visible(data); over.ID != mount.ID {
		return nil, broken("data", "%s is hidden by a mount of %s (%s)", data, over.Source, over.FSType)
	}
	device, err := m.deviceOf(r, mount)
	if err != nil {
		return nil, err
	}
	var mapping *sys.DMDevice
	for i := range v.mappings {
		if d := &v.mappings[i]; d.Major == device.Major && d.Minor == device.Minor {
			mapping = d
		}
	}
	if mapping == nil {
		return nil, broken("device", "%s is on device %s, which is no device-mapper device", mountpoint, device)
	}
	if err := m.proveMapping(r, mapping); err != nil {
		return nil, err
	}
	return &proven{data, mount, mapping}, nil
}

// mountpoint is where a volume is mounted; ErrNotMounted if none can be.
func (m *Manager) mountpoint(name string) (string, error) {
	dir, err := m.mountsDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, name), nil
}

func (m *Manager) mountsDir() (string, error) {
	dir, err := filepath.EvalSymlinks(m.o.Paths.MountsDir())
	if errors.Is(err, fs.ErrNotExist) {
		return "", ErrNotMounted
	}
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return "", fmt.Errorf("find the mountpoints: %w", err)
	}
	return dir, nil
}

// mountTree is a mount table by what is mounted on what.
type mountTree struct {
	root     sys.MountInfo
	hasRoot  bool
	children map[int][]sys.MountInfo // by the ID of the mount below
}

func newMountTree(mounts []sys.MountInfo) mountTree {
	t := mountTree{children: make(map[int][]sys.MountInfo, len(mounts))}
	ids := make(map[int]bool, len(mounts))
	for _, m := range mounts {
		ids[m.ID] = true
	}
	for _, m := range mounts {
		if m.Parent == m.ID || !ids[m.Parent] {
			if m.Mountpoint == "/" {
				t.root, t.hasRoot = m, true
			}
			continue
		}
		t.children[m.Parent] = append(t.children[m.Parent], m)
	}
	return t
}

// visible finds the mount that a path lies on, as walking there would: from the root, at each step into the mount that covers the next part of the
// path. A mount table alone does not show that something was mounted over a directory above, or twice in one place.
func (t mountTree) visible(path string) (sys.MountInfo, bool) {
	at := t.root
	for {
		next := at
		for _, m := range t.children[at.ID] {
			// Of several on the way the first counts; of several in one place the last, which is on top.
			if below(path, m.Mountpoint) && (next.ID == at.ID || len(m.Mountpoint) <= len(next.Mountpoint)) {
				next = m
			}
		}
		if next.ID == at.ID {
			return at, t.hasRoot
		}
		at = next // never twice the same: its own parent is another
	}
}

// below tells whether path is dir or lies in it.
func below(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir) && path[len(dir)] == '/'
}

// deviceOf finds the block device of a mount. A btrfs has a number of its own there, and its devices in sysfs.
func (m *Manager) deviceOf(r *record, mount sys.MountInfo) (sys.Dev, error) {
	if mount.FSType != r.Spec.FS {
		return sys.Dev{}, broken("mount", "%s is a mount of %s (%s), not of an %s", mount.Mountpoint, mount.Source, mount.FSType, r.Spec.FS)
	}
	if mount.FSType != "btrfs" {
		return sys.Dev{Major: mount.Major, Minor: mount.Minor}, nil
	}
	devices, err := m.s.Kernel.BtrfsDevices(r.FSUUID)
	if err != nil {
		return sys.Dev{}, fmt.Errorf("devices of btrfs %s: %w", r.FSUUID, err)
	}
	if len(devices) != 1 {
		return sys.Dev{}, broken("device", "the btrfs %s has %d devices, not one", r.FSUUID, len(devices))
	}
	// That this mount is that btrfs shows in its source, in which the kernel names the device.
	if source := mount.Source; source != "/dev/"+devices[0].Name && source != mappingPath(r.UUID) {
		return sys.Dev{}, broken("device", "%s is on %s, not on the device of btrfs %s", mount.Mountpoint, source, r.FSUUID)
	}
	return devices[0], nil
}

// proveMapping is the lower part of the chain: the mapping is ours and ends in our backing.
func (m *Manager) proveMapping(r *record, d *sys.DMDevice) error {
	if !strings.HasPrefix(d.UUID, cryptPrefix(r.UUID)) {
		return broken("mapping", "device %d:%d is %q, not a mapping of LUKS container %s", d.Major, d.Minor, d.UUID, r.UUID)
	}
	if d.Name != luks.MappingName(r.UUID) {
		return broken("mapping", "the container is open as %q, which is not the name that voluks uses", d.Name)
	}
	if len(d.Targets) != 1 {
		return broken("table", "mapping %s has %d targets, not one", d.Name, len(d.Targets))
	}
	lower, err := lowerDevice(d.Targets[0])
	if err != nil {
		return broken("table", "%v", err)
	}
	want := luks.Table{UUID: r.UUID, Name: d.Name, SectorSize: r.SectorSize, Device: lower, Options: r.flags()}
	if err := luks.CheckTable(d, want); err != nil {
		return broken("table", "%v", err)
	}
	err = m.backing(r).Is(lower)
	var other *backing.OtherError
	switch {
	case errors.As(err, &other):
		return broken("backing", "mapping %s lies on device %s, which is not the volume's %s: %v", d.Name, lower, r.Spec.Backing, err)
	case errors.Is(err, fs.ErrNotExist):
		return broken("backing", "the %s of the volume is gone, and mapping %s lies on device %s", r.Spec.Backing, d.Name, lower)
	}
	return err
}

// lowerDevice reads the device of a crypt target: "cipher key iv_offset MAJOR:MINOR offset [options]".
func lowerDevice(t sys.DMTarget) (sys.Dev, error) {
	var d sys.Dev
	fields := strings.Fields(t.Params)
	if t.Type != "crypt" || len(fields) < 5 {
		return d, fmt.Errorf("target is %q, not crypt", t.Type)
	}
	if n, err := fmt.Sscanf(fields[3], "%d:%d", &d.Major, &d.Minor); n != 2 || err != nil {
		return d, fmt.Errorf("target lies on %q, which is no device number", fields[3])
	}
	return d, nil
}

// mapping finds the mapping of a volume: nil if it is not open. Somebody else's mapping of the same container is ErrInUse: a second one would mount
// the same file system twice (F16). The mapping is proven down to the backing, so it can be mounted.
func (m *Manager) mapping(v *view, r *record) (*sys.DMDevice, error) {
	d, err := own(v, r)
	if err != nil || d == nil {
		return nil, err
	}
	return d, m.proveMapping(r, d)
}

// own is mapping without the proof, which closing does not need.
func own(v *view, r *record) (*sys.DMDevice, error) {
	name, prefix := luks.MappingName(r.UUID), cryptPrefix(r.UUID)
	var found *sys.DMDevice
	for i := range v.mappings {
		d := &v.mappings[i]
		switch {
		case d.Name == name && strings.HasPrefix(d.UUID, prefix):
			found = d
		case d.Name == name:
			return nil, broken("mapping", "a device-mapper device named %s exists and is %q, not ours", d.Name, d.UUID)
		case strings.HasPrefix(d.UUID, prefix):
			return nil, &Error{Code: CodeInUse, Err: fmt.Errorf("the container is open as /dev/mapper/%s, by somebody else: close it with `cryptsetup close %s`",
				d.Name, d.Name)}
		}
	}
	return found, nil
}

// cryptPrefix is how libcryptsetup begins the device-mapper UUID of every mapping of a LUKS2 container.
func cryptPrefix(uuid string) string {
	return "CRYPT-LUKS2-" + strings.ReplaceAll(uuid, "-", "") + "-"
}

func mappingPath(uuid string) string { return "/dev/mapper/" + luks.MappingName(uuid) }

// mountsOf are the mounts of a mapping in a mount table. A btrfs is known by its source, since its number is its own.
func mountsOf(mounts []sys.MountInfo, r *record, d *sys.DMDevice) []sys.MountInfo {
	path, node := mappingPath(r.UUID), fmt.Sprintf("/dev/dm-%d", d.Minor)
	var found []sys.MountInfo
	for _, mount := range mounts {
		if mount.Major == d.Major && mount.Minor == d.Minor || mount.FSType == "btrfs" && (mount.Source == path || mount.Source == node) {
			found = append(found, mount)
		}
	}
	return found
}
