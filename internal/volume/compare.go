// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/voluks/voluks/internal/config"
)

// options are all options of a spec in their one normal spelling, defaults included: equal options are equal strings.
func (s *Spec) options() map[string]string {
	o := map[string]string{
		"size": config.SizeText(s.Size), "fs": s.FS, "backing": s.Backing, "uid": strconv.Itoa(s.UID), "gid": strconv.Itoa(s.GID),
		"mode": fmt.Sprintf("%04o", s.Mode), "alloc": s.Alloc, "discard": strconv.FormatBool(s.Discard), "ephemeral": strconv.FormatBool(s.Ephemeral),
	}
	if s.Mkfs != "" {
		o["mkfs"] = s.Mkfs
	}
	for option, value := range map[string]string{"mount": s.Mount, "device": s.Device, "vg": s.VG, "pool": s.Pool} {
		if value != "" {
			o[option] = value
		}
	}
	return o
}

// differences tells in what a request differs from the volume s. An option counts if either of the two was given it: what was left to the node's
// defaults both times is equal, whatever the defaults were then and are now.
func (s *Spec) differences(want Spec) []Difference {
	have, wanted := s.options(), want.options()
	var diffs []Difference
	for _, option := range known {
		if !slices.Contains(s.Given, option) && !slices.Contains(want.Given, option) {
			continue
		}
		if option == "size" && s.GrownFrom != 0 && want.Size == s.GrownFrom {
			continue // the Compose file says what it said, and must not be asked to change: Compose would offer to make the volume anew
		}
		if have[option] != wanted[option] {
			diffs = append(diffs, Difference{option, orNothing(have[option]), orNothing(wanted[option])})
		}
	}
	return diffs
}

func orNothing(value string) string {
	if value == "" {
		return "not set"
	}
	return value
}
