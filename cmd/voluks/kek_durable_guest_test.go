// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/voluks/voluks/internal/testenv"
)

// A new master key and the edited configuration are what an editor and a shell left: nobody made them durable. After kek rotate the volumes need both, also
// when the power goes at once. F39
func TestGuestNewKeyOutlivesAPowerCut(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	n := &node{t, testenv.Ext4Dir(t, 2)}
	n.run("init", "--no-recovery")
	n.run("volume", "create", "db", "--size", "32M")
	unix.Sync()

	config := filepath.Join(n.root, "etc/voluks/config.toml")
	text, err := os.ReadFile(config)
	must(t, err)
	const key = "etc/voluks/master-2.key"
	must(t, os.WriteFile(filepath.Join(n.root, key), []byte("0123\x00\x01\x02\x03456789abcdefghij\x04\x05\x06\x07\x08\x09\x0b\x0c"), 0o600))
	edited := strings.Replace(string(text), "etc/voluks/master.key\"", key+"\"", 1) +
		"\n[[previous]]\nprovider = \"file\"\n[previous.file]\npath = \"" + filepath.Join(n.root, "etc/voluks/master.key") + "\"\n"
	must(t, os.WriteFile(config+".new", []byte(edited), 0o600))
	must(t, os.Rename(config+".new", config)) // as sed -i does
	n.run("kek", "rotate")
	powerCut(t, n.root)

	if after, err := os.ReadFile(config); err != nil || !bytes.Equal(after, []byte(edited)) {
		t.Errorf("the configuration is another one after the power cut: %v", err)
	}
	n.wants("keyslot test", n.run("keyslot", "test", "db"), "opens slot")
}

// powerCut loses what the ext4 file system at dir has not written yet, its journal included, and mounts it again.
func powerCut(t *testing.T, dir string) {
	t.Helper()
	const (
		shutdown   = 0x8004587d // EXT4_IOC_SHUTDOWN
		noLogFlush = 2          // EXT4_GOING_FLAGS_NOLOGFLUSH
	)
	d, err := os.Open(dir)
	must(t, err)
	err = unix.IoctlSetPointerInt(int(d.Fd()), shutdown, noLogFlush)
	d.Close()
	must(t, err)
	var st unix.Stat_t
	must(t, unix.Stat(dir, &st))
	device, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)))
	must(t, err)
	must(t, syscall.Unmount(dir, 0))
	must(t, syscall.Mount(filepath.Join("/dev", filepath.Base(device)), dir, "ext4", 0, ""))
}
