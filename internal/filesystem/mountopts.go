// SPDX-License-Identifier: Apache-2.0

package filesystem

import (
	"maps"
	"strings"

	"github.com/voluks/voluks/internal/sys"
)

// mountFlags are options for every type, which mount(2) takes as flags: set, then cleared.
var mountFlags = map[string]struct{ set, clear uintptr }{
	"suid": {clear: sys.MountNoSUID}, "nosuid": {set: sys.MountNoSUID},
	"dev": {clear: sys.MountNoDev}, "nodev": {set: sys.MountNoDev},
	"exec": {clear: sys.MountNoExec}, "noexec": {set: sys.MountNoExec},
	"sync": {set: sys.MountSync}, "async": {clear: sys.MountSync}, "dirsync": {set: sys.MountDirSync},
	"noatime":     {set: sys.MountNoATime, clear: sys.MountRelATime | sys.MountStrictATime},
	"relatime":    {set: sys.MountRelATime, clear: sys.MountNoATime | sys.MountStrictATime},
	"strictatime": {set: sys.MountStrictATime, clear: sys.MountNoATime | sys.MountRelATime},
	"nodiratime":  {set: sys.MountNoDirATime}, "lazytime": {set: sys.MountLazyTime}, "nolazytime": {clear: sys.MountLazyTime},
}

// defaultFlags: a volume holds data. Programs with privileges and device nodes in it would be a way up for whoever can write to it; who needs them
// says suid or dev.
const defaultFlags = sys.MountNoSUID | sys.MountNoDev

// mountTables are options for one type. Left out: what leads outside (journal, log and further devices), what skips the replay of the journal or
// the barriers that make it worth something, other views of the file system (subvol, sb), and what Mount sets itself.
var mountTables = map[Type]map[string]value{
	Ext4: {
		"acl": flag, "user_xattr": flag, "delalloc": flag, "nodelalloc": flag, "auto_da_alloc": optional(bit),
		"noauto_da_alloc": flag, "barrier": optional(words("1")), "block_validity": flag, "noblock_validity": flag, "commit": number(1, 300),
		"data": words("ordered", "journal"), "dioread_lock": flag, "dioread_nolock": flag, "grpquota": flag, "usrquota": flag, "prjquota": flag,
		"quota": flag, "noquota": flag, "i_version": flag, "init_itable": optional(number(0, 1000)), "noinit_itable": flag,
		"inode_readahead_blks": number(0, 1<<30), "journal_checksum": flag, "journal_ioprio": number(0, 7), "max_batch_time": count,
		"min_batch_time": count, "max_dir_size_kb": count, "stripe": count,
	},
	XFS: {
		"allocsize": size(4096, 1<<30), "attr2": flag, "filestreams": flag, "inode32": flag, "inode64": flag, "largeio": flag, "nolargeio": flag,
		"logbsize": words("16k", "32k", "64k", "128k", "256k", "16384", "32768", "65536", "131072", "262144"), "logbufs": number(2, 8), "noalign": flag,
		"noquota": flag, "quota": flag, "uquota": flag, "usrquota": flag, "gquota": flag, "grpquota": flag, "pquota": flag, "prjquota": flag,
		"uqnoenforce": flag, "gqnoenforce": flag, "pqnoenforce": flag, "swalloc": flag, "wsync": flag,
	},
	Btrfs: {
		"acl": flag, "noacl": flag, "autodefrag": flag, "noautodefrag": flag, "barrier": flag, "commit": number(1, 300), "compress": optional(compression()),
		"compress-force": optional(compression()), "datacow": flag, "nodatacow": flag, "datasum": flag, "nodatasum": flag, "flushoncommit": flag,
		"noflushoncommit": flag, "max_inline": size(0, 65536), "metadata_ratio": number(0, 1000), "skip_balance": flag, "space_cache": words("v2"),
		"ssd": flag, "nossd": flag, "ssd_spread": flag, "nossd_spread": flag, "thread_pool": number(1, 256), "treelog": flag, "notreelog": flag,
		"user_subvol_rm_allowed": flag,
	},
}

func compression() value {
	w := []string{"zlib", "lzo", "zstd", "no", "none"}
	for level := '1'; level <= '9'; level++ {
		w = append(w, "zlib:"+string(level), "zstd:"+string(level))
	}
	return words(append(w, "zstd:10", "zstd:11", "zstd:12", "zstd:13", "zstd:14", "zstd:15")...)
}

var mountReasons = map[string]string{
	"discard": "say discard=true as an option of the volume", "nodiscard": "say discard=false as an option of the volume",
	"errors": "errors always make the file system read-only", "ro": "say it where the volume is used (volume:/path:ro)", "rw": "it always is",
	"journal_dev": "an external journal would keep data outside of the volume", "journal_path": "an external journal would keep data outside of the volume",
	"logdev": "an external log would keep data outside of the volume", "rtdev": "a real-time device would keep data outside of the volume",
	"device": "further devices would keep data outside of the volume", "nobarrier": "a power cut would damage the file system",
	"noload": "a power cut would damage the file system", "norecovery": "a power cut would damage the file system",
	"nologreplay": "a power cut would damage the file system", "bind": "a volume is a file system of its own", "loop": "a volume is a device already",
	"defaults": "leave it out",
}

// ParseMount reads options as one writes them for mount ("noatime,commit=30"), and returns them for Spec.Mount. What is not on the list of the type is
// an *OptionError that says what is.
func ParseMount(t Type, s string) ([]string, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var opts []string
	for o := range strings.SplitSeq(s, ",") {
		o = strings.TrimSpace(o)
		if err := checkMount(t, o); err != nil {
			return nil, err
		}
		opts = append(opts, o)
	}
	return opts, nil
}

func checkMount(t Type, option string) error {
	name, val, given := strings.Cut(option, "=")
	if _, ok := mountFlags[name]; ok && !given {
		return nil
	}
	rule, known := mountTables[t][name]
	if known && rule.allows(val, given) {
		return nil
	}
	e := &OptionError{Option: option, Kind: "mount", Type: t, Reason: mountReasons[name]}
	if known {
		e.Allowed = names(map[string]value{name: rule})
		return e
	}
	all := maps.Clone(mountTables[t])
	for f := range mountFlags {
		all[f] = flag
	}
	e.Allowed = names(all)
	return e
}

// mountArgs returns the flags and the data of mount(2).
func mountArgs(s Spec) (flags uintptr, data string) {
	flags = defaultFlags
	var opts []string
	for _, o := range s.Mount {
		if f, ok := mountFlags[o]; ok {
			flags = flags&^f.clear | f.set
			continue
		}
		opts = append(opts, o)
	}
	// Said explicitly: what the file system does by default may be in its superblock, or change with the kernel (btrfs did, in 6.2).
	switch {
	case s.Discard && s.Type == Btrfs:
		opts = append(opts, "discard=async")
	case s.Discard:
		opts = append(opts, "discard")
	default:
		opts = append(opts, "nodiscard")
	}
	if s.Type == Ext4 {
		opts = append(opts, "errors=remount-ro")
	}
	return flags, strings.Join(opts, ",")
}
