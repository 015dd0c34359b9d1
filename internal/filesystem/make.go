// SPDX-License-Identifier: Apache-2.0

package filesystem

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/voluks/voluks/internal/lateregexp"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/sys/tool"
)

var uuidPattern = lateregexp.New(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// Make makes the file system on the block device dev. It needs s.UUID (lower case, 36 characters). mkfs inherits extra, so that locks among them are held
// until it has ended.
//
// What is recognised on the device is a *SignatureError, and stays, unless s.Overwrite is set; too small a device is a *SizeError, a missing program
// *ErrNoTool, an option that is not on the list *OptionError. When it returns nil, the device carries a file system with that UUID, written out.
func Make(ctx context.Context, dev string, s Spec, extra ...*os.File) error {
	if err := makeFS(ctx, dev, s, extra); err != nil {
		return fmt.Errorf("make %s on %s: %w", s.Type, dev, err)
	}
	return nil
}

func makeFS(ctx context.Context, dev string, s Spec, extra []*os.File) error {
	args, err := mkfsArgs(s)
	if err != nil {
		return err
	}
	name, pkg := mkfsTool(s.Type)
	path, err := tool.Find(name, pkg)
	if err != nil {
		return err
	}
	if _, _, err := sys.DevOf(dev); err != nil {
		return err
	}
	n, err := sys.BlockDeviceSize(dev)
	if err != nil {
		return err
	}
	if n < MinSize(s.Type) {
		return &SizeError{Type: s.Type, Size: n, Min: MinSize(s.Type)}
	}
	if err := clearFor(ctx, dev, s.Overwrite); err != nil {
		return err
	}
	// mkfs.btrfs -U wants to be sure that no other device has that UUID, reads every block device of the machine for it, and never ends if one of them
	// is suspended. It finds them in these two places and in blkid's cache.
	c := tool.Command{Path: path, Args: append(args, dev), Files: extra}
	if s.Type == Btrfs {
		c.Hide = []string{"/proc/partitions", "/sys/block"}
		c.Env = []string{"BLKID_FILE=/dev/null"}
	}
	if _, err := tool.Run(ctx, c); err != nil {
		return err
	}
	if err := syncDevice(dev); err != nil {
		return err
	}
	return checkDevice(dev, s.Type, s.UUID)
}

func mkfsTool(t Type) (name, pkg string) {
	switch t {
	case Ext4:
		return "mkfs.ext4", "e2fsprogs"
	case XFS:
		return "mkfs.xfs", "xfsprogs"
	}
	return "mkfs.btrfs", "btrfs-progs"
}

// mkfsArgs returns the arguments of mkfs but the device. It checks everything again: the Spec may come from a file.
func mkfsArgs(s Spec) ([]string, error) {
	args, err := ParseMkfs(s.Type, strings.Join(s.Mkfs, " "))
	if err != nil {
		return nil, err
	}
	if !uuidPattern().MatchString(s.UUID) {
		return nil, fmt.Errorf("UUID %q: must be given, in lower case", s.UUID)
	}
	if n := maxLabel(s.Type); len(s.Label) > n {
		return nil, fmt.Errorf("label %q: has %d bytes and may have %d", s.Label, len(s.Label), n)
	}
	if strings.ContainsFunc(s.Label, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return nil, fmt.Errorf("label %q: has control characters", s.Label)
	}
	args = append(args, "-q")
	if s.Label != "" {
		args = append(args, "-L", s.Label)
	}
	switch s.Type {
	case Ext4:
		args = append(args, "-b", "4096", "-U", s.UUID, "-e", "remount-ro")
		args = merge(args, "-E", ext4Extended(s)...)
	case XFS:
		args = merge(args, "-m", "uuid="+s.UUID)
		if !s.Discard {
			args = append(args, "-K")
		}
	case Btrfs:
		// With what is hidden from it, it could not find out whether the device takes discards.
		args = append(args, "-U", s.UUID, "-K")
	}
	return args, nil
}

// ext4Extended returns what goes into -E.
//
// lazy_itable_init leaves the inode tables to the kernel, which zeroes them after the mount and needs no zeros before (checksums in the group descriptors
// tell). lazy_journal_init does not write the journal's blocks at all, a good part of the time of mkfs. Its risk, that an old journal's blocks on the
// device are taken for new ones after a crash, does not exist here: what was on the device before it was encrypted with a new key reads as random.
func ext4Extended(s Spec) []string {
	ext := []string{"nodiscard"}
	if s.Discard {
		ext[0] = "discard"
	}
	given := strings.Join(s.Mkfs, " ")
	for _, lazy := range []string{"lazy_itable_init", "lazy_journal_init"} {
		if !strings.Contains(given, lazy) {
			ext = append(ext, lazy+"=1")
		}
	}
	return ext
}

// merge adds settings to an option of mkfs that may be there already: of two, mke2fs takes the last and mkfs.xfs none.
func merge(args []string, name string, settings ...string) []string {
	if i := slices.Index(args, name); i >= 0 {
		args[i+1] += "," + strings.Join(settings, ",")
		return args
	}
	return append(args, name, strings.Join(settings, ","))
}

// clearFor sees to it that no signature is left on the device: by refusing, or by zeroing the places where they are. mkfs.xfs and mkfs.btrfs would
// refuse what random bytes look like, and mkfs.ext4, which asks on a terminal alone, would overwrite anything.
func clearFor(ctx context.Context, dev string, overwrite bool) error {
	if !overwrite {
		sig, err := Probe(ctx, dev)
		if err == nil && sig != nil {
			err = &SignatureError{Device: dev, Found: *sig}
		}
		return err
	}
	d, err := sys.OpenDirect(dev, true)
	if err != nil {
		return err
	}
	err = zeroEdges(d)
	if err == nil {
		err = d.Sync()
	}
	return errors.Join(err, d.Close())
}

// Where signatures lie: in the first and the last MiB, and at 64 MiB a copy of btrfs's superblock.
const (
	edge        = 1 << 20
	btrfsMirror = 64 << 20
)

func zeroEdges(d *sys.DirectFile) error {
	zeros := make([]byte, edge)
	last := (d.Size() - edge) &^ 4095
	if _, err := d.WriteAt(zeros, 0); err != nil {
		return err
	}
	if _, err := d.WriteAt(zeros, last); err != nil {
		return err
	}
	if d.Size() > btrfsMirror+4096 {
		_, err := d.WriteAt(zeros[:4096], btrfsMirror)
		return err
	}
	return nil
}

func syncDevice(dev string) error {
	d, err := sys.OpenDirect(dev, true)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
