// SPDX-License-Identifier: Apache-2.0

package filesystem

import (
	"context"
	"fmt"
	"os"

	"github.com/voluks/voluks/internal/sys/tool"
)

// Grow makes the file system, which is on dev and mounted at target, as large as its device is, while it is used. One that is as large already stays as it
// is. The tool inherits extra, as that of Make does. A missing program is *ErrNoTool.
//
// The file systems do this in transactions of their own: an interruption leaves the old size, the new one or, of ext4, one between.
func Grow(ctx context.Context, dev, target string, t Type, extra ...*os.File) error {
	if err := t.check(); err != nil {
		return err
	}
	name, pkg, args := "resize2fs", "e2fsprogs", []string{dev}
	switch t {
	case XFS:
		name, pkg, args = "xfs_growfs", "xfsprogs", []string{target}
	case Btrfs:
		name, pkg, args = "btrfs", "btrfs-progs", []string{"filesystem", "resize", "max", target}
	}
	path, err := tool.Find(name, pkg)
	if err != nil {
		return fmt.Errorf("grow %s: %w", t, err)
	}
	if _, err := tool.Run(ctx, tool.Command{Path: path, Args: args, Files: extra}); err != nil {
		return fmt.Errorf("grow %s: %w", t, err)
	}
	return nil
}
