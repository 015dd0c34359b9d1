// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks"
)

// StorageOptions say where the real storage looks. The zero value is right for a program on the host.
type StorageOptions struct {
	// Mounts is the mount table of the host; "": /proc/1/mountinfo. A managed plugin has the host's elsewhere.
	Mounts string
	// Log gets what is worth knowing and fails nothing, such as a header copy that was damaged. nil: discarded.
	Log *slog.Logger
}

// NewStorage makes the real storage. It touches nothing.
func NewStorage(o StorageOptions) Storage {
	if o.Mounts == "" {
		o.Mounts = "/proc/1/mountinfo"
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return Storage{
		Files: OSFiles{}, Backings: realBackings{}, Containers: realContainers{o.Log}, Filesystems: realFilesystems{}, Kernel: realKernel{o.Mounts},
	}
}

type realContainers struct{ log *slog.Logger }

func (r realContainers) At(path string) Container { return r.watched(luks.At(path)) }

func (r realContainers) Foreign(path string) Container { return r.watched(luks.Foreign(path)) }

func (r realContainers) watched(c *luks.Container) Container {
	return c.OnDamage(func(err error) {
		r.log.Warn("a copy of the LUKS header is damaged; it will be repaired from the good one", "device", c.Path(), "err", err)
	})
}

func (realContainers) Close(name string) error { return luks.Close(name) }

type realFilesystems struct{}

func (realFilesystems) Make(ctx context.Context, dev string, s filesystem.Spec, extra ...*os.File) error {
	s.Overwrite = true // what to overwrite is the caller's decision, see Filesystems
	return filesystem.Make(ctx, dev, s, extra...)
}

func (realFilesystems) Probe(ctx context.Context, dev string) (*filesystem.Signature, error) {
	return filesystem.Probe(ctx, dev)
}

func (realFilesystems) Mount(ctx context.Context, dev, target string, s filesystem.Spec) error {
	return filesystem.Mount(ctx, dev, target, s)
}

func (realFilesystems) Grow(ctx context.Context, dev, target string, t filesystem.Type, extra ...*os.File) error {
	return filesystem.Grow(ctx, dev, target, t, extra...)
}

func (realFilesystems) Trim(target string) (int64, error) { return sys.Trim(target) }

func (realFilesystems) Unmount(ctx context.Context, target string) error {
	return filesystem.Unmount(ctx, target)
}

func (realFilesystems) MakeData(mnt string, uid, gid int, mode fs.FileMode) error {
	return filesystem.MakeData(mnt, uid, gid, mode)
}

// HasData wants a real directory: through a symbolic link the path would lead out of the file system.
func (realFilesystems) HasData(mnt string) (bool, error) {
	info, err := os.Lstat(filepath.Join(mnt, filesystem.DataDir))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.IsDir(), err
}

func (realFilesystems) MakeBare(mnt string) (bool, error) { return filesystem.MakeBare(mnt) }

func (realFilesystems) RemoveBare(mnt string) error { return filesystem.RemoveBare(mnt) }

func (realFilesystems) Usage(path string) (filesystem.Usage, error) { return filesystem.UsageOf(path) }

type realKernel struct{ mounts string }

func (k realKernel) Mounts() ([]sys.MountInfo, error) {
	f, err := os.Open(k.mounts)
	if err != nil {
		return nil, fmt.Errorf("read the host's mount table: %w", err)
	}
	defer f.Close()
	m, err := sys.ParseMountInfo(f)
	if err != nil {
		return nil, fmt.Errorf("read the host's mount table %s: %w", k.mounts, err)
	}
	return m, nil
}

func (realKernel) Mappings() ([]sys.DMDevice, error) { return sys.DMList() }

func (realKernel) BtrfsDevices(fsUUID string) ([]sys.Dev, error) {
	dir := filepath.Join("/sys/fs/btrfs", fsUUID, "devices")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []sys.Dev
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name(), "dev"))
		if err != nil {
			return nil, err
		}
		d := sys.Dev{Name: e.Name()}
		if n, err := fmt.Sscanf(strings.TrimSpace(string(b)), "%d:%d", &d.Major, &d.Minor); n != 2 || err != nil {
			return nil, fmt.Errorf("device number of %s: %q", e.Name(), b)
		}
		all = append(all, d)
	}
	return all, nil
}

func (realKernel) FSErrors(fstype string, minor uint32) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/sys/fs/%s/dm-%d/errors_count", fstype, minor))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

func (realKernel) Namespaces() ([]sys.MountNamespace, error) { return sys.MountNamespaces() }

func (realKernel) ProcessStart(pid int) (uint64, error) { return sys.ProcessStart(pid) }

func (realKernel) BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b)), err
}
