// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/config"
)

// tree is a machine as files: path to content. A content that begins with "-> " is a symbolic link.
type tree map[string]string

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const (
	hostMounts = `22 28 0:21 / /proc rw shared:5 - proc proc rw
24 28 0:24 / /run rw shared:6 - tmpfs tmpfs rw
28 1 253:0 / / rw,relatime shared:1 - ext4 /dev/mapper/root rw
31 28 8:17 / /var/lib/voluks rw shared:9 - ext4 /dev/sdb1 rw
`
	recipient = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq"
)

// healthy is a node with nothing to mend: root on an encrypted disk, volumes on another disk, the agent and Docker running under systemd.
func healthy() tree {
	return tree{
		"proc/misc":                  "236 device-mapper\n237 loop-control\n",
		"proc/crypto":                "name         : xts(aes)\ndriver       : xts-aes-vaes-avx2\n",
		"proc/cpuinfo":               "processor\t: 0\nflags\t\t: fpu sse2 aes avx2\n",
		"proc/meminfo":               "MemTotal:        8000000 kB\nMemFree: 1 kB\nMemAvailable:    6000000 kB\n",
		"proc/swaps":                 "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/dm-1                               partition\t1048572\t\t0\t\t-2\n/dev/zram0 partition 9 0 100\n",
		"proc/sysvipc/sem":           "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n 223159291          1   600          1     0     0     0     0 1795348800 1795348790\n",
		"proc/net/unix":              "Num       RefCount Protocol Flags    Type St Inode Path\n0000000000000000: 00000002 00000000 00010000 0001 01 20000 /run/docker/plugins/voluks.sock\n",
		"proc/sys/kernel/osrelease":  "6.12.0-1-amd64\n",
		"proc/sys/kernel/keys/.keep": "",
		"lib/modules/6.12.0-1-amd64/modules.builtin":                  "kernel/drivers/block/loop.ko\n",
		"lib/modules/6.12.0-1-amd64/modules.dep":                      "kernel/drivers/md/dm-crypt.ko.xz: kernel/drivers/md/dm-mod.ko.xz\nkernel/crypto/algif_skcipher.ko.zst:\n",
		"proc/1/ns/mnt":                                               "-> mnt:[1]",
		"proc/1/ns/ipc":                                               "-> ipc:[1]",
		"proc/1/mountinfo":                                            hostMounts,
		"proc/700/comm":                                               "voluks\n", // the agent
		"proc/700/ns/mnt":                                             "-> mnt:[1]",
		"proc/700/ns/ipc":                                             "-> ipc:[1]",
		"proc/800/comm":                                               "voluks\n", // this process
		"proc/800/ns/ipc":                                             "-> ipc:[1]",
		"proc/800/mountinfo":                                          hostMounts,
		"proc/800/cgroup":                                             "0::/user.slice/session.scope\n",
		"proc/300/comm":                                               "systemd-udevd\n",
		"proc/300/status":                                             "Name:\tsystemd-udevd\nState:\tS (sleeping)\n",
		"proc/301/comm":                                               "chronyd\n",
		"sys/fs/cgroup/user.slice/memory.max":                         "max\n",
		"sys/kernel/kexec_crash_loaded":                               "0\n",
		"sys/power/state":                                             "freeze mem disk\n",
		"sys/power/resume":                                            "0:0\n",
		"sys/devices/pci/sda/sda1/partition":                          "1\n",
		"sys/devices/pci/sda/sda2/partition":                          "2\n",
		"sys/devices/pci/sdb/sdb1/partition":                          "1\n",
		"sys/devices/virtual/block/dm-0/dm/uuid":                      "CRYPT-LUKS2-00000000000000000000000000000001-root\n",
		"sys/devices/virtual/block/dm-0/dm/name":                      "root\n",
		"sys/devices/virtual/block/dm-0/slaves/sda1":                  "-> ../../../../pci/sda/sda1",
		"sys/devices/virtual/block/dm-1/dm/uuid":                      "CRYPT-PLAIN-swap\n",
		"sys/devices/virtual/block/dm-1/dm/name":                      "swap\n",
		"sys/devices/virtual/block/dm-1/slaves/sda2":                  "-> ../../../../pci/sda/sda2",
		"sys/devices/virtual/block/zram0/backing_dev":                 "none\n",
		"sys/class/block/dm-0":                                        "-> ../../devices/virtual/block/dm-0",
		"sys/class/block/dm-1":                                        "-> ../../devices/virtual/block/dm-1",
		"sys/class/block/zram0":                                       "-> ../../devices/virtual/block/zram0",
		"sys/class/block/sda2":                                        "-> ../../devices/pci/sda/sda2",
		"sys/dev/block/253:0":                                         "-> ../../devices/virtual/block/dm-0",
		"sys/dev/block/8:1":                                           "-> ../../devices/pci/sda/sda1",
		"sys/dev/block/8:17":                                          "-> ../../devices/pci/sdb/sdb1",
		"run/udev/control":                                            "",
		"run/systemd/system/.keep":                                    "",
		"run/voluks/agent.lock":                                       "700\n",
		"usr/bin/dockerd":                                             "",
		"usr/bin/voluks":                                              "",
		"usr/sbin/mkfs.ext4":                                          "",
		"usr/sbin/mkfs.xfs":                                           "",
		"usr/lib/udev/rules.d/55-dm.rules":                            "",
		"usr/lib/systemd/system/voluks.socket":                        "",
		"usr/lib/systemd/system/voluks.service":                       "",
		"usr/lib/systemd/system/voluks-gate.service":                  "",
		"etc/systemd/system/sockets.target.wants/voluks.socket":       "-> /usr/lib/systemd/system/voluks.socket",
		"etc/systemd/system/multi-user.target.wants/voluks.service":   "-> /usr/lib/systemd/system/voluks.service",
		"etc/systemd/system/docker.service.wants/voluks-gate.service": "-> /usr/lib/systemd/system/voluks-gate.service",
		"etc/voluks/config.toml":                                      "[recovery]\nrecipients = [\"" + recipient + "\"]\nconfirmed = true\n",
		"etc/voluks/master.key":                                       strings.Repeat("k", 32),
		"var/lib/voluks/volumes/db/record.json":                       "{}",
		"var/lib/voluks/volumes/db/image":                             "",
	}
}

// node writes the tree and returns the node that it shows.
func (files tree) node(t *testing.T) *Node {
	t.Helper()
	root := t.TempDir()
	for path, content := range files {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			if err := os.Symlink(target, full); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(full, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(full, noon, noon.Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	p := config.PathsUnder(root)
	return &Node{
		System: root, Paths: p, ConfigFile: p.ConfigFile(), Owner: os.Geteuid(), Now: func() time.Time { return noon }, Pid: 800,
		Libcryptsetup: "2.8.6", Keys: func(config.Config) error { return nil }, Plaintext: func() ([]string, error) { return nil, nil }, Drills: func() ([]string, error) { return nil, nil },
	}
}

// snapshot is every name, mode, size and time below a directory.
func snapshot(t *testing.T, root string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil {
			lines = append(lines, fmt.Sprint(path, info.Mode(), info.Size(), info.ModTime()))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
