// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"fmt"
	"slices"
	"strings"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/filesystem"
)

// maxName leaves room for ".lock" in a file name of 255 bytes.
const maxName = 250

// CheckName refuses what cannot be the name of a volume: it becomes the name of directories and files. Docker's own rule is the same, except that
// it asks for two characters; device-mapper's limits do not matter, since mappings are named by UUID.
func CheckName(name string) error {
	reason := ""
	switch {
	case name == "":
		reason = "is empty"
	case len(name) > maxName:
		reason = fmt.Sprintf("has %d bytes; at most %d are possible", len(name), maxName)
	case !alphanumeric(name[0]):
		reason = "must start with a letter or a digit"
	case strings.IndexFunc(name, func(r rune) bool {
		return r > 127 || !alphanumeric(byte(r)) && r != '_' && r != '.' && r != '-'
	}) >= 0:
		reason = "may contain only letters, digits, and the characters _ . -"
	}
	if reason == "" {
		return nil
	}
	if len(name) > 40 {
		name = name[:40] + "…"
	}
	return fmt.Errorf("volume name %q %s", name, reason)
}

func alphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// typeList is filesystem.Types for a sentence.
const typeList = "ext4, xfs, btrfs"

// check is what must hold for any Spec, however it was made.
func (s *Spec) check(d Defaults) error {
	if err := CheckName(s.Name); err != nil {
		return err
	}
	t := filesystem.Type(s.FS)
	fail := func(option, value, reason string) error {
		return &OptionError{Option: option, Value: value, Reason: reason}
	}
	switch {
	case !slices.Contains(filesystem.Types(), t):
		return fail("fs", s.FS, "must be "+typeList)
	case s.Size < filesystem.MinSize(t):
		return fail("size", config.SizeText(s.Size), fmt.Sprintf("%s needs at least %s", t, config.SizeText(filesystem.MinSize(t))))
	case s.Mode > 0o7777 || s.UID < 0 || s.GID < 0 || s.UID > maxID || s.GID > maxID:
		return fail("mode, uid, gid", "", "out of range")
	case s.Backing != BackingImage:
		return fail("backing", s.Backing, "this version has backing=image")
	case s.Ephemeral:
		return fail("ephemeral", "true", "this version has no ephemeral volumes")
	case s.Alloc != AllocFull && s.Alloc != AllocSparse:
		return fail("alloc", s.Alloc, "must be full or sparse")
	case s.Alloc == AllocSparse && !d.Overcommit:
		return fail("alloc", s.Alloc, "promises space that may not be there when it is written, and then writes are lost; the node's configuration "+
			"must allow it with overcommit = true under [volumes]")
	case s.Alloc == AllocFull && s.Discard:
		return fail("discard", "true", "would give the space away that alloc=full has reserved; use it with alloc=sparse, or leave it out")
	}
	// Their errors name the option and what there is instead.
	if _, err := filesystem.ParseMkfs(t, s.Mkfs); err != nil {
		return err
	}
	_, err := filesystem.ParseMount(t, s.Mount)
	return err
}
