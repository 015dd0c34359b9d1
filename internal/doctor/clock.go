// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

var clockChecks = []Check{
	{"clock", "key services refuse requests with a wrong time, and removed volumes are erased by the clock", clock},
	{"memory.argon2", "opening a slot that a passphrase opens takes up to 1 GiB of memory, and the kernel kills who does not get it", argon2},
}

func clock(n *Node, f *findings) {
	now := n.now()
	// Whatever is newer than now was written when the clock was ahead of it.
	const slack = 10 * time.Minute
	files, err := filepath.Glob(filepath.Join(n.Paths.VolumesDir(), "*", "record.json"))
	if f.unknown(err) {
		return
	}
	for _, file := range append(files, n.ConfigFile, n.at("/usr/bin/voluks"), n.at("/etc/os-release")) {
		info, err := os.Stat(file)
		if err == nil && info.ModTime().After(now.Add(slack)) {
			f.add(Error, "set the clock: timedatectl", "it is %s, and %s is from %s", now.UTC().Format(time.DateTime), file, info.ModTime().UTC().Format(time.DateTime))
			return
		}
	}
	synced, err := n.has("/run/systemd/timesync/synchronized")
	if f.unknown(err) {
		return
	}
	keepers, err := n.processes("chronyd", "ntpd", "openntpd", "ntpd-rs", "ntp-daemon", "ptp4l", "phc2sys")
	switch {
	case f.unknown(err):
	case synced || len(keepers) > 0:
		f.ok("the clock is kept right")
	default:
		f.add(Warning, "timedatectl set-ntp true", "nothing keeps the clock right")
	}
}

func argon2(n *Node, f *findings) {
	text, err := n.text("/proc/meminfo")
	if f.unknown(err) {
		return
	}
	total, available := meminfo(text, "MemTotal"), meminfo(text, "MemAvailable")
	if total == 0 {
		f.unknown(errors.New("/proc/meminfo has no MemTotal"))
		return
	}
	limit, err := n.cgroupLimit()
	if f.unknown(err) {
		return
	}
	if limit > 0 {
		available = min(available, limit)
	}
	const most = 1 << 30 // what cryptsetup takes at most; never more than half of the memory
	need := min(int64(most), total/2)
	if available < need {
		f.add(Warning, "keep passphrase slots off this node, or give it more memory; the slots of voluks itself need none of it",
			"%d MiB are available, and a passphrase slot made here takes up to %d MiB", available>>20, need>>20)
		return
	}
	f.ok("%d MiB are available", available>>20)
}

// meminfo reads a line of /proc/meminfo, in bytes.
func meminfo(text, key string) int64 {
	for line := range strings.Lines(text) {
		if name, value, _ := strings.Cut(line, ":"); name == key {
			fields := strings.Fields(value)
			if len(fields) == 0 {
				return 0
			}
			kib, err := strconv.ParseInt(fields[0], 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}

// cgroupLimit is the least memory limit of the cgroups that this process is in (version 2), in bytes; 0 without one.
func (n *Node) cgroupLimit() (int64, error) {
	text, err := n.text("/proc/" + n.self() + "/cgroup")
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	_, path, ok := strings.Cut(text, "0::/")
	if !ok {
		return 0, nil
	}
	least := int64(0)
	for dir := strings.TrimSpace(path); dir != "" && dir != "."; dir = filepath.Dir(dir) {
		value, err := n.text("/sys/fs/cgroup/" + dir + "/memory.max")
		if err != nil {
			continue // no memory controller there
		}
		if limit, err := strconv.ParseInt(value, 10, 64); err == nil && (least == 0 || limit < least) {
			least = limit
		}
	}
	return least, nil
}
