// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Process is a process that uses something.
type Process struct {
	PID  int    // in this namespace
	Comm string // the command's name
	How  string // "open file", "working directory", "root directory", "program", "mapped file"
}

// String says it for people.
func (p Process) String() string { return fmt.Sprintf("process %d (%s, %s)", p.PID, p.Comm, p.How) }

// ProcessesUsing returns processes that keep the mount at mountpoint busy: those found, without a claim to be all. It is for messages alone. It asks
// /proc and never the file system itself.
func ProcessesUsing(mountpoint string) []Process {
	table, err := MountInfoOf("self")
	if err != nil {
		return nil
	}
	var mount *MountInfo
	for i := range table {
		if table[i].Mountpoint == mountpoint {
			mount = &table[i] // the last is the topmost
		}
	}
	if mount == nil {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var users []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		if how := usage(dir, mount); how != "" {
			users = append(users, process(pid, how))
		}
	}
	return users
}

// usage tells how the process of that /proc directory uses the mount; empty if it does not, as far as can be seen.
func usage(dir string, m *MountInfo) string {
	for _, link := range [][2]string{{"cwd", "working directory"}, {"root", "root directory"}, {"exe", "program"}} {
		if target, err := os.Readlink(filepath.Join(dir, link[0])); err == nil && below(target, m.Mountpoint) {
			return link[1]
		}
	}
	// Mount ids are unique in the whole system. A stat of the file behind the descriptor might wait for some other, broken file system.
	entries, _ := os.ReadDir(filepath.Join(dir, "fdinfo"))
	id := []byte(fmt.Sprintf("mnt_id:\t%d\n", m.ID))
	for _, e := range entries {
		if b, err := os.ReadFile(filepath.Join(dir, "fdinfo", e.Name())); err == nil && bytes.Contains(b, id) {
			return "open file"
		}
	}
	if maps, err := os.ReadFile(filepath.Join(dir, "maps")); err == nil {
		dev := []byte(fmt.Sprintf(" %02x:%02x ", m.Major, m.Minor))
		for line := range bytes.Lines(maps) {
			if bytes.Contains(line, dev) && bytes.Contains(line, []byte(" "+m.Mountpoint+"/")) {
				return "mapped file"
			}
		}
	}
	return ""
}

func below(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }
