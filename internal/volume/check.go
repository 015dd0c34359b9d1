// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/voluks/voluks/internal/backing"
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
	case s.Mode > 0o7777 || s.UID < 0 || s.GID < 0 || s.UID > maxID || s.GID > maxID:
		return fail("mode, uid, gid", "", "out of range")
	case s.Ephemeral && s.Backing != BackingImage:
		return fail("ephemeral", "true", "needs backing=image: an image that is made for each use, and never one that exists")
	case s.Alloc != AllocFull && s.Alloc != AllocSparse:
		return fail("alloc", s.Alloc, "must be full or sparse")
	case s.Alloc == AllocSparse && !d.Overcommit:
		return fail("alloc", s.Alloc, "promises space that may not be there when it is written, and then writes are lost; the node's configuration "+
			"must allow it with overcommit = true under [volumes]")
	case s.Alloc == AllocFull && s.Discard && s.Backing == BackingImage:
		return fail("discard", "true", "would give the space away that alloc=full has reserved; use it with alloc=sparse, or leave it out")
	}
	if s.Backing != BackingDevice { // whose size is not known yet
		if err := s.checkSize(); err != nil {
			return err
		}
	}
	if err := s.checkBacking(d); err != nil {
		return err
	}
	// Their errors name the option and what there is instead.
	if _, err := filesystem.ParseMkfs(t, s.Mkfs); err != nil {
		return err
	}
	_, err := filesystem.ParseMount(t, s.Mount)
	return err
}

// checkSize refuses what its file system cannot live in.
func (s *Spec) checkSize() error {
	t := filesystem.Type(s.FS)
	if s.Size < filesystem.MinSize(t) {
		return &OptionError{Option: "size", Value: config.SizeText(s.Size), Reason: fmt.Sprintf("%s needs at least %s", t, config.SizeText(filesystem.MinSize(t)))}
	}
	return nil
}

// checkBacking is the part of check about where the ciphertext goes: only where the configuration allows it (safety rule 6).
func (s *Spec) checkBacking(d Defaults) error {
	fail := func(option, value, reason string) error {
		return &OptionError{Option: option, Value: value, Reason: reason}
	}
	only := func(kind string, options map[string]string) error {
		for _, option := range slices.Sorted(maps.Keys(options)) {
			if options[option] != "" {
				return fail(option, options[option], "goes with backing="+kind)
			}
		}
		return nil
	}
	device, group := map[string]string{"device": s.Device}, map[string]string{"vg": s.VG, "pool": s.Pool}
	switch s.Backing {
	case BackingImage:
		return cmp.Or(only(BackingDevice, device), only(BackingLVM, group))
	case BackingDevice:
		switch {
		case s.Size != 0:
			return fail("size", config.SizeText(s.Size), "the volume takes the whole device: leave the size out")
		case s.Alloc != AllocFull:
			return fail("alloc", s.Alloc, "a device is taken as a whole: leave alloc out")
		case !slices.Contains(d.Devices, s.Device):
			return fail("device", s.Device, "is not among the devices that the node's configuration allows"+allowed("devices", d.Devices))
		}
		return only(BackingLVM, group)
	case BackingLVM:
		switch {
		case !slices.Contains(d.VolumeGroups, s.VG):
			return fail("vg", s.VG, "is not among the volume groups that the node's configuration allows"+allowed("volume_groups", d.VolumeGroups))
		case s.Pool == "" && s.Alloc != AllocFull:
			return fail("alloc", s.Alloc, "a thick logical volume has all of its space: leave alloc out, or name a thin pool")
		case s.Pool != "" && s.Alloc != AllocSparse:
			return fail("alloc", s.Alloc, "a volume in a thin pool takes its space as it fills: leave alloc out, or leave the pool out")
		}
		for option, name := range group {
			if name == "" {
				continue
			}
			if err := backing.CheckLVMName(name); err != nil {
				return fail(option, name, err.Error())
			}
		}
		return only(BackingDevice, device)
	}
	return fail("backing", s.Backing, "must be image, device or lvm")
}

func allowed(key string, list []string) string {
	if len(list) == 0 {
		return "; it allows none: list them as " + key + " under [backing]"
	}
	return ", which are " + strings.Join(list, ", ")
}
