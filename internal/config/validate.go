// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// minAge keeps a slip such as max_age = "1s" from rotating all day.
const minAge = time.Hour

// FileSystems are the values of default_fs, the first one being the default.
var fileSystems = []string{"ext4", "xfs", "btrfs"}

// defaults is the file that says what Default says.
func defaults(p Paths) document {
	cfg := Default(p)
	var doc document
	doc.KEK.Provider = cfg.KEK.Provider
	doc.Volumes.DefaultSize = SizeText(cfg.Volumes.DefaultSize)
	doc.Volumes.DefaultFS = cfg.Volumes.DefaultFS
	doc.Volumes.Workqueue = cfg.Volumes.Workqueue
	doc.Docker.Socket = cfg.Docker.Socket
	doc.Remove.Keep = DurationText(cfg.Remove.Keep)
	doc.Recovery.Drill = DurationText(cfg.Recovery.Drill)
	return doc
}

// config checks the values of the document and turns them into a Config.
func (doc *document) config(found keysFound, problems *problems, p Paths) Config {
	bad := func(key, format string, args ...any) { problems.add(found.line(key), key, format, args...) }
	cfg := Config{
		KEK:      doc.KEK.config("kek", found, bad, &p),
		Recovery: doc.recovery(found, bad),
		Volumes:  Volumes{DefaultFS: doc.Volumes.DefaultFS, Overcommit: doc.Volumes.Overcommit, Workqueue: doc.Volumes.Workqueue},
		Backing:  doc.backing(bad),
		Docker:   Docker{Socket: doc.Docker.Socket},
		Backup:   Backup{Directory: doc.Backup.Directory},
	}
	for i := range doc.Previous {
		key := fmt.Sprintf("previous[%d]", i)
		previous := doc.Previous[i].config(key, found, bad, nil)
		if same(previous, cfg.KEK) {
			bad(key, "is the same key as the one in [kek]")
		}
		cfg.Previous = append(cfg.Previous, previous)
	}

	var err error
	if cfg.Volumes.DefaultSize, err = ParseSize(doc.Volumes.DefaultSize); err != nil {
		bad("volumes.default_size", "%v", err)
	}
	if !slices.Contains(fileSystems, cfg.Volumes.DefaultFS) {
		bad("volumes.default_fs", "%q is not one of %s", cfg.Volumes.DefaultFS, strings.Join(fileSystems, ", "))
	}
	if !slices.Contains([]string{"auto", "on", "off"}, cfg.Volumes.Workqueue) {
		bad("volumes.workqueue", "%q is not one of auto, on, off", cfg.Volumes.Workqueue)
	}
	checkPath("docker.socket", cfg.Docker.Socket, bad)
	if found.has("backup.directory") {
		checkPath("backup.directory", cfg.Backup.Directory, bad)
	}
	if cfg.Remove.Keep, err = ParseDuration(doc.Remove.Keep); err != nil {
		bad("remove.keep", "%v", err)
	}
	if found.has("rotation.max_age") {
		cfg.Rotation.MaxAge, err = ParseDuration(doc.Rotation.MaxAge)
		switch {
		case err != nil:
			bad("rotation.max_age", "%v", err)
		case cfg.Rotation.MaxAge < minAge:
			bad("rotation.max_age", "is less than an hour; leave it out to rotate only when asked")
		}
	}
	return cfg
}

// stableNames are where udev and device-mapper put names that stay with a medium. Those of by-uuid and by-label come from what is on it, and the kernel's
// own (sda, nvme0n1, dm-0) are given out anew at each boot.
var stableNames = []string{"/dev/disk/by-id/", "/dev/disk/by-partuuid/", "/dev/mapper/"}

func (doc *document) backing(bad func(string, string, ...any)) Backing {
	b := Backing{Devices: doc.Backing.Devices, VolumeGroups: doc.Backing.VolumeGroups}
	for i, device := range b.Devices {
		key := fmt.Sprintf("backing.devices[%d]", i)
		if !slices.ContainsFunc(stableNames, func(dir string) bool { return strings.HasPrefix(device, dir) && len(device) > len(dir) }) {
			bad(key, "%q is not a stable name, which another disk never gets: use one of those in /dev/disk/by-id", device)
			continue
		}
		checkPath(key, device, bad)
	}
	for i, group := range b.VolumeGroups {
		if group == "" || strings.ContainsAny(group, "/ \t") || group[0] == '-' {
			bad(fmt.Sprintf("backing.volume_groups[%d]", i), "%q is not the name of a volume group, as vgs shows it", group)
		}
	}
	return b
}

// config checks one [kek] or [[previous]] table. A default path is given only for the first: which
// key was the previous one is for the configuration to say.
func (t *kekTable) config(at string, found keysFound, bad func(string, string, ...any), p *Paths) KEK {
	names := providers()
	if !slices.Contains(names, t.Provider) {
		hint := "known: " + strings.Join(names, ", ")
		if near := Nearest(t.Provider, names); near != "" {
			hint = "did you mean " + near + "?"
		}
		if t.Provider == "" {
			bad(at+".provider", "is missing; %s", hint)
		} else {
			bad(at+".provider", "unknown key provider %q; %s", t.Provider, hint)
		}
		return KEK{}
	}
	for _, name := range names {
		if name != t.Provider && found.has(at+"."+name) {
			bad(at+"."+name, "are settings of a provider that is not selected: %s.provider is %q", at, t.Provider)
		}
	}
	return t.selected(at, found, bad, p)
}

func (doc *document) recovery(found keysFound, bad func(string, string, ...any)) Recovery {
	if found.recoveryWord {
		if found.word != "none" {
			// Not printed: somebody may have put the identity here.
			bad("recovery", `must be "none" or a table with recipients`)
		}
		return Recovery{None: true}
	}
	r := Recovery{Recipients: doc.Recovery.Recipients, Confirmed: doc.Recovery.Confirmed}
	var err error
	switch r.Drill, err = ParseDuration(doc.Recovery.Drill); {
	case err != nil:
		bad("recovery.drill", "%v", err)
	case r.Drill > 0 && r.Drill < day:
		bad("recovery.drill", "is less than a day; \"0\" is never")
	}
	if !found.has("recovery") {
		return r
	}
	if len(r.Recipients) == 0 {
		bad("recovery.recipients", `is empty; run "voluks init", or write recovery = "none" at the top of the file`)
	}
	for i, recipient := range r.Recipients {
		key := "recovery.recipients"
		switch {
		case strings.HasPrefix(strings.ToUpper(strings.TrimSpace(recipient)), "AGE-SECRET-KEY-"):
			bad(key, "number %d is an identity, which is secret: keep it away from this node, make a new one, and write its recipient (age1...) here", i+1)
		case !looksLikeRecipient(recipient):
			bad(key, "number %d is not an age recipient (age1... or age1pq1...)", i+1)
		case slices.Contains(r.Recipients[:i], recipient):
			bad(key, "number %d is there twice", i+1)
		case isPostQuantum(recipient) != isPostQuantum(r.Recipients[0]):
			bad(key, "number %d: post-quantum recipients (age1pq1...) and others cannot be mixed, since the weaker kind would decide", i+1)
		}
	}
	return r
}

func isPostQuantum(recipient string) bool { return strings.HasPrefix(recipient, "age1pq1") }

// looksLikeRecipient checks the letters of a Bech32 string with the prefix of age; the checksum is
// left to internal/recovery.
func looksLikeRecipient(s string) bool {
	rest, ok := strings.CutPrefix(strings.TrimPrefix(s, "age1pq1"), "age1")
	if !ok && !isPostQuantum(s) {
		return false
	}
	return len(rest) >= 58 && strings.Trim(rest, "qpzry9x8gf2tvdw0s3jn54khce6mua7l") == ""
}

func checkPath(key, path string, bad func(string, string, ...any)) {
	switch {
	case path == "":
		bad(key, "is missing; it is the absolute path of a file")
	case !filepath.IsAbs(path):
		bad(key, "%q is not an absolute path", path)
	case filepath.Clean(path) != path:
		bad(key, "%q is not in its shortest form; write %q", path, filepath.Clean(path))
	case strings.IndexFunc(path, func(r rune) bool { return r < ' ' || r == 0x7f }) >= 0:
		bad(key, "%q has control characters in it", path)
	}
}
