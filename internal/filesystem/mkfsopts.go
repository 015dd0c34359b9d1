// SPDX-License-Identifier: Apache-2.0

package filesystem

import (
	"maps"
	"slices"
	"strings"
)

// mkfsOption is an option of mkfs: it takes a value, or a list of settings name=value.
type mkfsOption struct {
	value value
	sub   map[string]value
}

// The tables have what changes how the file system works inside its device. Left out, besides what leads outside (journal, log and real-time
// devices, directories to copy from): sizes of blocks and sectors, which follow from the device; what Make sets itself (UUID, label, discards); and
// what leaves the file system without a journal.
var mkfsTables = map[Type]map[string]mkfsOption{
	Ext4: {
		"-m": {value: number(0, 50)},
		"-i": {value: size(1024, 64<<20)},
		"-I": {value: words("128", "256", "512", "1024")},
		"-N": {value: number(16, 1<<32-1)},
		"-T": {value: words("default", "small", "big", "huge", "news", "largefile", "largefile4")},
		"-G": {value: number(1, 1<<16)},
		"-J": {sub: map[string]value{"size": number(4, 40960), "fast_commit_size": number(1, 40960)}},
		"-E": {sub: map[string]value{
			"stride": count, "stripe_width": count, "lazy_itable_init": bit, "lazy_journal_init": bit, "packed_meta_blocks": bit,
			"num_backup_sb": words("0", "1", "2"), "quotatype": words("usrquota", "grpquota", "prjquota"),
		}},
		"-O": {value: features("64bit", "dir_index", "dir_nlink", "extra_isize", "fast_commit", "flex_bg", "huge_file", "inline_data", "large_dir", "large_file",
			"metadata_csum", "metadata_csum_seed", "orphan_file", "project", "quota", "resize_inode", "sparse_super", "sparse_super2", "stable_inodes")},
	},
	XFS: {
		"-m": {sub: map[string]value{"crc": bit, "finobt": bit, "inobtcount": bit, "reflink": bit, "rmapbt": bit, "bigtime": bit}},
		"-i": {sub: map[string]value{
			"size": words("256", "512", "1024", "2048"), "maxpct": number(0, 100), "sparse": bit, "nrext64": bit, "exchange": bit,
		}},
		"-l": {sub: map[string]value{"size": size(2<<20, 2<<30), "lazy-count": bit, "version": words("2")}},
		"-n": {sub: map[string]value{"size": words("4096", "8192", "16384", "32768", "65536"), "parent": bit}},
	},
	Btrfs: {
		"-n":     {value: words("4096", "8192", "16384", "32768", "65536", "4k", "8k", "16k", "32k", "64k")},
		"-m":     {value: words("single", "dup")},
		"-d":     {value: words("single", "dup")},
		"--csum": {value: words("crc32c", "xxhash", "sha256", "blake2")},
		"-O":     {value: features("block-group-tree", "extref", "no-holes", "skinny-metadata")},
	},
}

// mkfsReasons says more than "not on the list" about options that people try.
var mkfsReasons = map[Type]map[string]string{
	Ext4: {
		"-J device": "an external journal would keep data outside of the volume", "-U": "voluks chooses the UUID", "-L": "voluks chooses the label",
		"-F": "voluks decides what may be overwritten", "-d": "files of the host are not copied into a volume", "-b": "the block size follows from the sector size",
		"-E discard": "say discard=true as an option of the volume", "-E nodiscard": "this is the default", "-K": "this is the default",
		"-e": "errors always make the file system read-only", "-c": "the device is not searched for bad blocks", "-O ^has_journal": "without a journal a power cut damages it",
	},
	XFS: {
		"-l logdev": "an external log would keep data outside of the volume", "-l internal": "the log is always inside of the volume",
		"-r": "a real-time device would keep data outside of the volume", "-m uuid": "voluks chooses the UUID", "-L": "voluks chooses the label",
		"-f": "voluks decides what may be overwritten", "-d": "data lies on the volume's own device", "-p": "files of the host are not copied into a volume",
		"-b": "the block size follows from the sector size", "-s": "the sector size follows from the device", "-K": "this is the default",
	},
	Btrfs: {
		"-U": "voluks chooses the UUID", "-L": "voluks chooses the label", "-f": "voluks decides what may be overwritten",
		"-r": "files of the host are not copied into a volume", "-s": "the sector size follows from the device", "-K": "this is the default",
		"-b": "it always takes the whole volume",
	},
}

// ParseMkfs reads options as one writes them for mkfs ("-m 0 -E stride=16"), and returns arguments for Spec.Mkfs. What is not on the list of the type
// is an *OptionError that says what is.
func ParseMkfs(t Type, s string) ([]string, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	table := mkfsTables[t]
	var args []string
	seen := map[string]bool{}
	for words := strings.Fields(s); len(words) > 0; {
		name, val, rest, ok := nextOption(words)
		o, known := table[name]
		if !known {
			return nil, mkfsError(t, name, val, allowedMkfs(table))
		}
		if !ok || val == "" {
			return nil, &OptionError{Option: name, Kind: "mkfs", Type: t, Reason: "it needs a value", Allowed: o.allowed(name)}
		}
		if seen[name] {
			return nil, &OptionError{Option: name, Kind: "mkfs", Type: t, Reason: "it is given twice"}
		}
		if err := o.check(t, name, val); err != nil {
			return nil, err
		}
		seen[name] = true
		args = append(args, name, val)
		words = rest
	}
	return args, nil
}

// nextOption splits "-m 0", "-m0", "--csum sha256" and "--csum=sha256".
func nextOption(words []string) (name, val string, rest []string, ok bool) {
	w := words[0]
	if long, v, cut := strings.Cut(w, "="); strings.HasPrefix(w, "--") && cut {
		return long, v, words[1:], true
	}
	if !strings.HasPrefix(w, "--") && strings.HasPrefix(w, "-") && len(w) > 2 {
		return w[:2], w[2:], words[1:], true
	}
	if len(words) < 2 {
		return w, "", nil, false
	}
	return w, words[1], words[2:], true
}

func (o mkfsOption) check(t Type, name, val string) error {
	if o.sub == nil {
		if o.value.allows(val, true) {
			return nil
		}
		return mkfsError(t, name, val, o.allowed(name))
	}
	seen := map[string]bool{}
	for _, item := range strings.Split(val, ",") {
		key, v, given := strings.Cut(item, "=")
		rule, known := o.sub[key]
		if !known {
			return mkfsError(t, name, item, o.allowed(name))
		}
		if seen[key] {
			return &OptionError{Option: name + " " + key, Kind: "mkfs", Type: t, Reason: "it is given twice"}
		}
		seen[key] = true
		if !rule.allows(v, given) {
			return &OptionError{Option: name + " " + item, Kind: "mkfs", Type: t, Allowed: []string{name + " " + key + "=" + rule.describe()}}
		}
	}
	return nil
}

func mkfsError(t Type, name, val string, allowed []string) error {
	e := &OptionError{Option: strings.TrimSpace(name + " " + val), Kind: "mkfs", Type: t, Allowed: allowed}
	key, _, _ := strings.Cut(val, "=")
	if r, ok := mkfsReasons[t][name+" "+key]; ok {
		e.Reason = r
	} else if r, ok := mkfsReasons[t][name]; ok {
		e.Reason = r
	}
	return e
}

func (o mkfsOption) allowed(name string) []string {
	if o.sub == nil {
		return []string{name + " " + o.value.describe()}
	}
	var all []string
	for _, s := range names(o.sub) {
		all = append(all, name+" "+s)
	}
	return all
}

func allowedMkfs(table map[string]mkfsOption) []string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(table)) {
		all = append(all, table[name].allowed(name)...)
	}
	return all
}
