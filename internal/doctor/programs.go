// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"strconv"
	"strings"
)

var programChecks = []Check{
	{"libcryptsetup", "it writes and opens the headers; some versions have faults that cost data or secrecy", libcryptsetup},
	{"mkfs", "a volume's file system is made by the programs of the file system", mkfs},
}

// badVersions are the releases of libcryptsetup with faults that matter here, from (incl.) to (excl.).
var badVersions = []struct {
	from, to string
	level    Level
	what     string
}{
	{"", "2.4.0", Error, "voluks needs 2.4.0"},
	{"2.4.0", "2.4.3", Warning, "a forged header makes it decrypt the data in place (CVE-2021-4122)"},
	{"2.7.0", "2.7.5", Warning, "online re-encryption can corrupt data; voluks refuses to re-encrypt with it"},
	{"", "2.8.5", Note, "an interrupted re-encryption can be resumed on the wrong device, which it does not notice"},
}

func libcryptsetup(n *Node, f *findings) {
	if n.Libcryptsetup == "" {
		f.unknown(fmt.Errorf("the version is not known"))
		return
	}
	version, err := parseVersion(n.Libcryptsetup)
	if f.unknown(err) {
		return
	}
	for _, bad := range badVersions {
		from, _ := parseVersion(bad.from)
		to, _ := parseVersion(bad.to)
		if less(version, from) || !less(version, to) {
			continue
		}
		f.add(bad.level, "install libcryptsetup "+bad.to+" or later", "version %s: %s", n.Libcryptsetup, bad.what)
		return
	}
	f.ok("version %s", n.Libcryptsetup)
}

// parseVersion reads "2.7.5" or "2.8.0-rc1"; "" is 0.
func parseVersion(s string) (v [3]int, err error) {
	numbers, _, _ := strings.Cut(s, "-")
	for i, part := range strings.Split(numbers, ".") {
		if s == "" {
			break
		}
		n, err := strconv.Atoi(part)
		if err != nil || i >= len(v) {
			return v, fmt.Errorf("version %q is not understood", s)
		}
		v[i] = n
	}
	return v, nil
}

func less(a, b [3]int) bool {
	for i := range a {
		if a[i] != b[i] {
			return a[i] < b[i]
		}
	}
	return false
}

// mkfsPackages are where the programs come from, by file system.
var mkfsPackages = []struct{ fs, pkg string }{{"ext4", "e2fsprogs"}, {"xfs", "xfsprogs"}, {"btrfs", "btrfs-progs"}}

func mkfs(n *Node, f *findings) {
	standard := "ext4"
	if cfg, err := n.config(); err == nil {
		standard = cfg.Volumes.DefaultFS
	}
	var have, lack []string
	for _, m := range mkfsPackages {
		program := "mkfs." + m.fs
		found, err := n.first("/usr/sbin/"+program, "/sbin/"+program, "/usr/local/sbin/"+program, "/usr/bin/"+program)
		switch {
		case f.unknown(err):
			return
		case found != "":
			have = append(have, m.fs)
		case m.fs == standard:
			f.add(Error, "apt install "+m.pkg, "%s is missing, and %s is what new volumes get", program, m.fs)
		default:
			lack = append(lack, fmt.Sprintf("%s (%s)", m.fs, m.pkg))
		}
	}
	if len(have) > 0 {
		text := "volumes can be made with " + strings.Join(have, ", ")
		if len(lack) > 0 {
			text += "; not with " + strings.Join(lack, ", ")
		}
		f.ok("%s", text)
	}
}
