// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// tree makes a sysfs with one device, 8:0, whose files are given by their path below the device.
func tree(t *testing.T, dev string, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	disk := filepath.Join(root, "devices/pci/sda")
	for name, text := range files {
		path := filepath.Join(disk, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	by := filepath.Join(root, "dev/block")
	if err := errors.Join(os.MkdirAll(by, 0o755), os.Symlink(filepath.Join(disk, dev), filepath.Join(by, "8:0"))); err != nil {
		t.Fatal(err)
	}
	return root
}

// F11: what a device is known by, of each kind of disk.
func TestIdentifyBlock(t *testing.T) {
	for name, c := range map[string]struct {
		dev   string
		files map[string]string
		want  BlockID
	}{
		"scsi": {"", map[string]string{"size": "2048\n", "queue/logical_block_size": "512\n", "device/wwid": "naa.5000c500a1b2c3d4\n",
			"device/vpd_pg80": "\x00\x80\x00\x08 WD-1234"}, BlockID{Serial: "WD-1234", WWN: "naa.5000c500a1b2c3d4", Size: 1 << 20, Block: 512}},
		"nvme": {"", map[string]string{"size": "8\n", "queue/logical_block_size": "4096\n", "wwid": "eui.0025385\n", "device/serial": "S4EV   \n"},
			BlockID{Serial: "S4EV", WWN: "eui.0025385", Size: 4096, Block: 4096}},
		"virtio": {"", map[string]string{"size": "8\n", "queue/logical_block_size": "512\n", "serial": "vol-0abc\n"}, BlockID{Serial: "vol-0abc", Size: 4096, Block: 512}},
		"mapped": {"", map[string]string{"size": "8\n", "queue/logical_block_size": "512\n", "dm/uuid": "mpath-3600\n"}, BlockID{DM: "mpath-3600", Size: 4096, Block: 512}},
		"partition": {"sda1", map[string]string{"sda1/size": "8\n", "sda1/partition": "1\n", "sda1/start": "2048\n", "serial": "X\n", "queue/logical_block_size": "512\n"},
			BlockID{Serial: "X", Partition: 1, Start: 1 << 20, Size: 4096, Block: 512}},
		"nameless": {"", map[string]string{"size": "8\n", "queue/logical_block_size": "512\n", "serial": "\n"}, BlockID{Size: 4096, Block: 512}},
	} {
		got, err := identifyBlock(tree(t, c.dev, c.files), 8, 0)
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := identifyBlock(tree(t, "", map[string]string{"size": "8", "queue/logical_block_size": "512"}), 8, 1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such device: %v", err)
	}
	// What cannot be read must not look like a device without a name.
	bad := tree(t, "", map[string]string{"size": "8", "queue/logical_block_size": "512", "serial/x": ""})
	if id, err := identifyBlock(bad, 8, 0); err == nil {
		t.Errorf("unreadable serial number: %+v", id)
	}
	if id, err := identifyBlock(tree(t, "", map[string]string{"size": "many", "queue/logical_block_size": "512"}), 8, 0); err == nil {
		t.Errorf("size: %+v", id)
	}
}
