// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
	"github.com/voluks/voluks/keyslot"
)

// F21, F28: each broken link of the chain from the path to the ciphertext. No way out gives the path: not Path, not Inspect, not List, not Mount.
func TestProof(t *testing.T) {
	for name, c := range map[string]struct {
		break_ func(n *volumetest.Node, info volume.Info)
		link   string
		fs     string
	}{
		"another file system over it": {func(n *volumetest.Node, i volume.Info) {
			n.MountOther(n.Paths.Mount("db"), "/", "tmpfs", "tmpfs", 0, 99)
		}, "mount", "ext4"},
		"a disk of the same type over it": {func(n *volumetest.Node, i volume.Info) {
			n.MountOther(n.Paths.Mount("db"), "/", "ext4", "/dev/sdb1", 8, 17)
		}, "device", "ext4"},
		"plaintext instead of it": {func(n *volumetest.Node, i volume.Info) {
			n.UnmountAt(n.Paths.Mount("db"))
			n.MountOther(n.Paths.Mount("db"), "/", "ext4", "/dev/sdb1", 8, 17)
		}, "device", "ext4"},
		"a mount over a directory above": {func(n *volumetest.Node, i volume.Info) {
			n.MountOther(n.Paths.MountsDir(), "/", "tmpfs", "tmpfs", 0, 99)
		}, "hidden", "ext4"},
		"a mount over the root": {func(n *volumetest.Node, i volume.Info) {
			n.MountOther("/", "/", "tmpfs", "tmpfs", 0, 99)
		}, "hidden", "ext4"},
		"a directory of a file system": {func(n *volumetest.Node, i volume.Info) {
			n.MountOther(n.Paths.Mount("db"), "/etc", "ext4", "/dev/sdb1", 8, 17)
		}, "root", "ext4"},
		"a mount over the data directory": {func(n *volumetest.Node, i volume.Info) {
			n.MountOther(filepath.Join(n.Paths.Mount("db"), "data"), "/", "tmpfs", "tmpfs", 0, 99)
		}, "data", "ext4"},
		"a mapping of another container": {func(n *volumetest.Node, i volume.Info) {
			n.Tamper(i.UUID, func(name, uuid, params *string) { *uuid = strings.Repeat("0", 8) + (*uuid)[8:] })
		}, "mapping", "ext4"},
		"a mapping under another name": {func(n *volumetest.Node, i volume.Info) {
			n.Tamper(i.UUID, func(name, uuid, params *string) { *name = "byhand" })
		}, "mapping", "ext4"},
		"another cipher": {func(n *volumetest.Node, i volume.Info) {
			n.Tamper(i.UUID, func(name, uuid, params *string) {
				*params = "cipher_null-ecb :64:logon:cryptsetup:" + i.UUID + "-d0 0 7:0 32768 1 sector_size:4096"
			})
		}, "table", "ext4"},
		"a shorter key": {func(n *volumetest.Node, i volume.Info) {
			n.Tamper(i.UUID, func(name, uuid, params *string) {
				*params = "aes-xts-plain64 :32:logon:cryptsetup:" + i.UUID + "-d0 0 7:0 32768 1 sector_size:4096"
			})
		}, "table", "ext4"},
		"another sector size": {func(n *volumetest.Node, i volume.Info) {
			n.Tamper(i.UUID, func(name, uuid, params *string) {
				*params = "aes-xts-plain64 :64:logon:cryptsetup:" + i.UUID + "-d0 0 7:0 32768"
			})
		}, "table", "ext4"},
		"another offset": {func(n *volumetest.Node, i volume.Info) {
			n.Tamper(i.UUID, func(name, uuid, params *string) {
				*params = "aes-xts-plain64 :64:logon:cryptsetup:" + i.UUID + "-d0 0 7:0 0 1 sector_size:4096"
			})
		}, "table", "ext4"},
		"discards that were not asked for": {func(n *volumetest.Node, i volume.Info) {
			n.Tamper(i.UUID, func(name, uuid, params *string) {
				*params = "aes-xts-plain64 :64:logon:cryptsetup:" + i.UUID + "-d0 0 7:0 32768 2 allow_discards sector_size:4096"
			})
		}, "table", "ext4"},
		"a key that is in the table": {func(n *volumetest.Node, i volume.Info) {
			n.Tamper(i.UUID, func(name, uuid, params *string) { *params = "aes-xts-plain64 - 0 7:0 32768 1 sector_size:4096" })
		}, "table", "ext4"},
		"another target": {func(n *volumetest.Node, i volume.Info) {
			n.Tamper(i.UUID, func(name, uuid, params *string) { *params = "7:0 0" })
		}, "table", "ext4"},
		"a disk below": {func(n *volumetest.Node, i volume.Info) {
			n.Tamper(i.UUID, func(name, uuid, params *string) {
				*params = "aes-xts-plain64 :64:logon:cryptsetup:" + i.UUID + "-d0 0 8:16 32768 1 sector_size:4096"
			})
		}, "backing", "ext4"},
		"another loop device below": {func(n *volumetest.Node, i volume.Info) {
			n.Tamper(i.UUID, func(name, uuid, params *string) {
				*params = "aes-xts-plain64 :64:logon:cryptsetup:" + i.UUID + "-d0 0 7:1 32768 1 sector_size:4096"
			})
		}, "backing", "ext4"},
		"the image replaced": {func(n *volumetest.Node, i volume.Info) {
			os.Rename(image(n, "db"), image(n, "db")+".old")
			os.WriteFile(image(n, "db"), nil, 0o600)
		}, "backing", "ext4"},
		"the image removed": {func(n *volumetest.Node, i volume.Info) { os.Remove(image(n, "db")) }, "backing", "ext4"},
		"a btrfs on something else": {func(n *volumetest.Node, i volume.Info) {
			n.MountOther(n.Paths.Mount("db"), "/", "btrfs", "/dev/sdb1", 8, 17)
		}, "device", "btrfs"},
	} {
		t.Run(name, func(t *testing.T) {
			n := volumetest.NewNode(t)
			info := create(t, n, "db", "fs="+c.fs, "size=128M")
			create(t, n, "other")
			mount(t, n, "db", docker("a"))
			mount(t, n, "other", docker("a"))
			c.break_(n, info)
			_, err := n.Manager().Path(t.Context(), "db")
			var p *volume.ProofError
			if !errors.Is(err, volume.ErrPlaintext) || !errors.As(err, &p) || p.Link != c.link {
				t.Errorf("path: %v; want link %q", err, c.link)
			}
			if path, err := n.Manager().Mount(t.Context(), "db", docker("b")); !errors.Is(err, volume.ErrPlaintext) || path != "" {
				t.Errorf("mount: %q, %v", path, err)
			}
			got := inspect(t, n, "db")
			if got.State != volume.StateDamaged || got.Mountpoint != "" || got.Used != nil || !strings.Contains(got.Reason, "not proven") {
				t.Errorf("inspect: %+v", got)
			}
			infos, err := n.Manager().List(t.Context())
			if err != nil || len(infos) != 2 || infos[0].Mountpoint != "" {
				t.Errorf("list: %+v, %v", infos, err)
			}
			if c.link != "hidden" {
				if _, err := n.Manager().Path(t.Context(), "other"); err != nil {
					t.Errorf("the other volume: %v", err)
				}
			}
			// The holder that was refused is not recorded.
			if len(got.Holders) != 1 || got.Holders[0].ID != "a" {
				t.Errorf("holders %v", got.Holders)
			}
		})
	}
}

// The proof holds through a symbolic link on the way, and for each file system.
func TestProofHolds(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs", "btrfs"} {
		n := volumetest.NewNode(t)
		real := t.TempDir()
		if err := os.MkdirAll(filepath.Dir(n.Paths.State), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(real, n.Paths.State); err != nil {
			t.Fatal(err)
		}
		create(t, n, "db", "fs="+fs, "size=512M")
		if path := mount(t, n, "db", docker("a")); !strings.HasPrefix(path, real) {
			t.Errorf("%s: path %s", fs, path)
		}
		if err := n.Manager().Unmount(t.Context(), "db", "a"); err != nil {
			t.Errorf("%s: %v", fs, err)
		}
		clean(t, n)
	}
}

// F20, F28: a mount that the host does not see is not given out, and does not stay.
func TestMountThatTheHostDoesNotSee(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	n.Apart(true)
	if path, err := n.Manager().Mount(t.Context(), "db", docker("a")); !errors.Is(err, volume.ErrPlaintext) || path != "" || !strings.Contains(err.Error(), "namespace") {
		t.Errorf("got %q, %v", path, err)
	}
	n.Apart(false)
	clean(t, n)
	if held := inspect(t, n, "db").Holders; len(held) > 0 {
		t.Errorf("holders %v", held)
	}
}

// A header that is not the one the volume was completed with: an older one, put back, or that of a copy.
func TestMountOtherHeader(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, c volume.Container, token int){
		"without the volume's token": func(t *testing.T, c volume.Container, token int) {
			if err := c.RemoveToken(token); err != nil {
				t.Fatal(err)
			}
		},
		"of another file system": func(t *testing.T, c volume.Container, token int) {
			if err := keyslot.SetVolume(c, keyslot.VolumeToken{Name: "db", FS: "ext4", FSUUID: "01234567-89ab-cdef-0123-456789abcdef"}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := volumetest.NewNode(t)
			create(t, n, "db")
			c := n.Process().Storage().Containers.At(image(n, "db"))
			h, err := c.Header()
			if err != nil {
				t.Fatal(err)
			}
			for id, token := range h.Tokens {
				if token.Type == keyslot.TypeVolume {
					change(t, c, id)
				}
			}
			if _, err := n.Manager().Mount(t.Context(), "db", docker("a")); !errors.Is(err, volume.ErrDamaged) {
				t.Errorf("got %v", err)
			}
			clean(t, n)
		})
	}
}

// A token of a later voluks hides neither the volume nor its slots (and is not touched).
func TestMountWithUnknownToken(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db")
	c := n.Process().Storage().Containers.At(image(n, "db"))
	if _, err := c.SetToken(-1, []byte(`{"type":"voluks-shiny","keyslots":[],"v":2}`)); err != nil {
		t.Fatal(err)
	}
	_, before, _, _ := n.Container(image(n, "db"))
	mount(t, n, "db", docker("a"))
	if _, after, _, _ := n.Container(image(n, "db")); before != after {
		t.Error("the header was written")
	}
}
