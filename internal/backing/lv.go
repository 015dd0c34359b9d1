// SPDX-License-Identifier: Apache-2.0

package backing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/sys"
)

// LV is a logical volume of LVM that voluks makes and removes. Its name holds the UUID of the container in it, so none is ever taken for another's.
//
// It is made under a name that ends in "new", and renamed when its ends are zero: what lay in that part of the volume group before, a header say, is not
// taken for something in the new volume.
type LV struct{ vg, pool, uuid string }

// LVAt names the logical volume for a container: in a volume group and, if pool is not "", in that thin pool of it.
func LVAt(vg, pool, uuid string) *LV { return &LV{vg, pool, uuid} }

func (l *LV) name() string { return "voluks-" + l.uuid }
func (l *LV) half() string { return l.name() + "-new" }

// mapper is what device-mapper calls a logical volume: LVM doubles the dashes of both names.
func (l *LV) mapper(name string) string {
	double := func(s string) string { return strings.ReplaceAll(s, "-", "--") }
	return double(l.vg) + "-" + double(name)
}

// active finds the device of the logical volume; os.ErrNotExist if there is none, which does not say that there is no such logical volume.
func (l *LV) active() (node string, dev sys.Dev, err error) {
	d, err := sys.DMByName(l.mapper(l.name()))
	if err != nil {
		return "", dev, err
	}
	if !strings.HasPrefix(d.UUID, lvmPrefix) {
		return "", dev, other("device-mapper device %s is %q, not of LVM", d.Name, d.UUID)
	}
	return "/dev/mapper/" + d.Name, sys.Dev{Major: d.Major, Minor: d.Minor}, nil
}

// lvmPrefix begins the device-mapper UUID of everything that LVM activates. The kernel never changes it.
const lvmPrefix = "LVM-"

// activate makes sure that there is a device of the logical volume. os.ErrNotExist if LVM positively knows none.
func (l *LV) activate(ctx context.Context) (node string, dev sys.Dev, err error) {
	node, dev, err = l.active()
	if !errors.Is(err, sys.ErrNotExist) {
		return node, dev, err
	}
	if _, err := l.look(ctx, l.name()); err != nil {
		return "", dev, err
	}
	if _, err := lvm(ctx, "lvchange", "--activate", "y", "--ignoreactivationskip", l.vg+"/"+l.name()); err != nil {
		return "", dev, err
	}
	return l.active()
}

func (l *LV) look(ctx context.Context, name string) (int64, error) { return findLV(ctx, l.vg, name) }

// Create makes the logical volume with room for size bytes of file system and the header, rounded up to whole extents. A thin one takes its space as it
// fills, so alloc must be Sparse for it, and Full for a thick one.
func (l *LV) Create(ctx context.Context, size int64, alloc string) (err error) {
	full, err := ImageSize(size)
	if err != nil {
		return err
	}
	if thin := l.pool != ""; thin != (Alloc(alloc) == Sparse) {
		return fmt.Errorf("create logical volume: allocation %q: thick ones are %q, thin ones %q", alloc, Full, Sparse)
	}
	if _, err := l.look(ctx, l.name()); err == nil {
		return &os.PathError{Op: "create logical volume", Path: l.vg + "/" + l.name(), Err: os.ErrExist}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := l.remove(ctx, l.half()); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.remove(context.WithoutCancel(ctx), l.half()))
		}
	}()
	args := []string{"--yes", "--wipesignatures", "n", "--name", l.half()}
	if l.pool == "" {
		if err := l.reserve(ctx, full); err != nil {
			return err
		}
		args = append(args, "--size", bytesArg(full), l.vg)
	} else {
		args = append(args, "--virtualsize", bytesArg(full), "--thinpool", l.pool, l.vg)
	}
	if _, err := lvm(ctx, "lvcreate", args...); err != nil {
		return err
	}
	if err := Wipe(ctx, "/dev/mapper/"+l.mapper(l.half())); err != nil {
		return err
	}
	_, err = lvm(ctx, "lvrename", l.vg, l.half(), l.name())
	return err
}

// reserve looks whether the volume group has room. The caller holds the node's lock.
func (l *LV) reserve(ctx context.Context, need int64) error {
	out, err := lvm(ctx, "vgs", "--noheadings", "--units", "b", "--nosuffix", "--options", "vg_free", l.vg)
	if err != nil {
		return err
	}
	free, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return fmt.Errorf("free space of volume group %s: %w", l.vg, err)
	}
	if free < need {
		return &NoSpaceError{Path: "volume group " + l.vg, Need: need, Avail: free}
	}
	return nil
}

func bytesArg(n int64) string { return strconv.FormatInt(n, 10) + "b" }

// Size is the room behind the header, in bytes.
func (l *LV) Size(ctx context.Context) (int64, error) {
	_, dev, err := l.active()
	if errors.Is(err, sys.ErrNotExist) {
		size, err := l.look(ctx, l.name())
		return size - HeaderSize, err
	}
	if err != nil {
		return 0, err
	}
	id, err := sys.IdentifyBlock(dev.Major, dev.Minor)
	return id.Size - HeaderSize, err
}

// Room is not known without asking LVM.
func (l *LV) Room() (missing, left int64, err error) { return 0, 0, nil }

// Attach activates the logical volume if need be, and keeps its device open. ErrInUse if something but our mapping has it.
func (l *LV) Attach(ctx context.Context) (*Held, error) {
	node, dev, err := l.activate(ctx)
	if err != nil {
		return nil, fmt.Errorf("attach logical volume: %w", err)
	}
	return hold(node, dev, l.uuid)
}

// Rotational tells whether the logical volume lies on a rotating disk.
func (l *LV) Rotational() (bool, error) {
	_, dev, err := l.active()
	if err != nil {
		return false, err
	}
	return sys.Rotational(dev.Major, dev.Minor)
}

// Detach has nothing to undo: LVM activates its volumes at boot.
func (l *LV) Detach(context.Context) error { return nil }

// Door is the path of the device's node.
func (l *LV) Door(ctx context.Context) (string, error) {
	node, _, err := l.activate(ctx)
	return node, err
}

// Users names what lies on the logical volume, and snapshots of it.
func (l *LV) Users() ([]string, error) {
	_, dev, err := l.active()
	if errors.Is(err, sys.ErrNotExist) {
		return nil, nil // so nobody can have it
	}
	if err != nil {
		return nil, err
	}
	users, err := usersOf(dev)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookTime)
	defer cancel()
	snapshots, err := l.snapshots(ctx)
	return append(users, snapshots...), err
}

// lookTime bounds a question that LVM answers without being in anybody's way.
const lookTime = 20 * time.Second

// snapshots says which there are of the logical volume, thick or thin. Somebody made them for a reason: a thick one goes with its origin without a
// question, and both keep a copy of a header that is overwritten.
func (l *LV) snapshots(ctx context.Context) (all []string, err error) {
	out, err := lvm(ctx, "lvs", "--noheadings", "--options", "lv_name", "--select", "origin="+l.name(), l.vg)
	for _, name := range strings.Fields(string(out)) {
		all = append(all, fmt.Sprintf("%s/%s is a snapshot of it", l.vg, name))
	}
	return all, err
}

func (l *LV) noSnapshots(ctx context.Context) error {
	snapshots, err := l.snapshots(ctx)
	if err == nil && len(snapshots) > 0 {
		err = fmt.Errorf("%s: %w", strings.Join(snapshots, ", "), ErrInUse)
	}
	return err
}

// Is tells whether a block device is this logical volume.
func (l *LV) Is(dev sys.Dev) error {
	dir := fmt.Sprintf("/sys/dev/block/%d:%d/dm", dev.Major, dev.Minor)
	name, err := os.ReadFile(filepath.Join(dir, "name"))
	if errors.Is(err, os.ErrNotExist) {
		return other("it is no logical volume")
	}
	if err != nil {
		return err
	}
	uuid, err := os.ReadFile(filepath.Join(dir, "uuid"))
	if err != nil {
		return err
	}
	if got, want := strings.TrimSpace(string(name)), l.mapper(l.name()); got != want || !strings.HasPrefix(string(uuid), lvmPrefix) {
		return other("it is %s (%s), not %s", got, strings.TrimSpace(string(uuid)), want)
	}
	return nil
}

// ProbeBlank looks at what Create has made blank: both ends. Between them lies whatever the volume group had there.
func (l *LV) ProbeBlank(ctx context.Context, dev string) (err error) {
	d, err := sys.OpenDirect(dev, false)
	if err != nil {
		return fmt.Errorf("look whether device is blank: %w", err)
	}
	defer d.Close()
	if err := blankEdges(ctx, d, dev); err != nil {
		return fmt.Errorf("look whether device is blank: %w", err)
	}
	return nil
}

// Wipe is for devices.
func (l *LV) Wipe(context.Context, string) error {
	return errors.New("a logical volume of voluks is never wiped")
}

// Remove gives its space back to the volume group, with what a killed Create left. ErrInUse while something uses it, or is a snapshot of it.
func (l *LV) Remove(ctx context.Context) error {
	users, err := l.Users()
	if err != nil {
		return err
	}
	if len(users) > 0 {
		return fmt.Errorf("remove logical volume: %s: %w", strings.Join(users, ", "), ErrInUse)
	}
	return errors.Join(l.remove(ctx, l.name()), l.remove(ctx, l.half()))
}

func (l *LV) remove(ctx context.Context, name string) error {
	if _, err := l.look(ctx, name); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if err := l.noSnapshots(ctx); err != nil { // which are there without a device too
		return fmt.Errorf("remove logical volume: %w", err)
	}
	_, err := lvm(ctx, "lvremove", "--yes", l.vg+"/"+name)
	return err
}
