// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// MountInfo is one line of proc_pid_mountinfo(5). Paths are unescaped.
type MountInfo struct {
	ID, Parent   int    // and that of the mount below it
	Major, Minor uint32 // of the file system; btrfs has an anonymous number here, not its device's
	Root         string // directory of the file system that is visible at Mountpoint
	Mountpoint   string // as seen from the process's root
	Options      string // of this mount
	Propagation  string // optional fields, for example "shared:12"; empty if private
	FSType       string // such as "ext4"
	Source       string // what was given to mount(2)
	SuperOptions string // of the file system
}

// MountInfoOf reads the mount table that the process sees: "self", "1" (the host's, for the agent) or another pid.
func MountInfoOf(pid string) ([]MountInfo, error) {
	path := filepath.Join("/proc", pid, "mountinfo")
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read mount table: %w", err)
	}
	defer f.Close()
	m, err := ParseMountInfo(f)
	if err != nil {
		return nil, fmt.Errorf("read mount table %s: %w", path, err)
	}
	return m, nil
}

// ParseMountInfo reads a whole mount table. A line that it does not understand is an error: a table with a hole would prove a mount absent.
func ParseMountInfo(r io.Reader) ([]MountInfo, error) {
	var all []MountInfo
	b := bufio.NewReader(r)
	for n := 1; ; n++ {
		line, err := b.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 {
			return all, nil
		}
		if err != nil && err != io.EOF {
			return nil, err
		}
		m, err := parseMount(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		all = append(all, m)
	}
}

func parseMount(line []byte) (MountInfo, error) {
	// 36 35 98:0 /root /mnt rw,noatime shared:1 master:2 - ext4 /dev/dm-0 rw,errors=continue
	left, right, ok := bytes.Cut(line, []byte(" - "))
	f := strings.Split(string(left), " ")
	g := strings.Split(string(right), " ")
	if !ok || len(f) < 6 || len(g) < 3 {
		return MountInfo{}, fmt.Errorf("too few fields: %q", line)
	}
	m := MountInfo{
		Root: unescape(f[3]), Mountpoint: unescape(f[4]), Options: f[5], Propagation: strings.Join(f[6:], " "),
		FSType: unescape(g[0]), Source: unescape(g[1]), SuperOptions: g[2],
	}
	var err error
	if m.ID, err = strconv.Atoi(f[0]); err != nil {
		return MountInfo{}, fmt.Errorf("mount id: %q", f[0])
	}
	if m.Parent, err = strconv.Atoi(f[1]); err != nil {
		return MountInfo{}, fmt.Errorf("parent id: %q", f[1])
	}
	if m.Major, m.Minor, err = parseDev(f[2]); err != nil {
		return MountInfo{}, err
	}
	return m, nil
}

// unescape undoes the kernel's \ooo for blank, tab, newline, backslash and #.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(v))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
