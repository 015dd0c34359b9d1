// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/voluks/voluks/internal/config"
)

// Backings, allocations and the defaults that no configuration changes.
const (
	BackingImage  = "image"
	BackingDevice = "device"
	BackingLVM    = "lvm"
	AllocFull     = "full"
	AllocSparse   = "sparse"

	defaultMode = 0o755
	maxID       = 1<<32 - 2 // the kernel keeps the last for "no change"
)

// known lists the options of a volume, in the order in which they are shown. Keys, rotation and retention are never among them: when an option
// changes, Compose offers to recreate the volume.
var known = []string{"size", "fs", "backing", "device", "vg", "pool", "uid", "gid", "mode", "mkfs", "mount", "discard", "alloc", "ephemeral"}

// KnownOptions lists the options that a volume can be created with.
func KnownOptions() []string { return slices.Clone(known) }

// ParseOptions turns the driver options of a create request into a Spec, defaults filled in, and checks it as far as that is possible without
// touching the system. The error is an *Error with CodeInvalid around an *OptionError, or around a message about the name.
func ParseOptions(name string, opts map[string]string, d Defaults) (Spec, error) {
	s := Spec{Name: name, Size: d.Size, FS: d.FS, Backing: BackingImage, Mode: defaultMode, Alloc: AllocFull}
	// In order, so that of several wrong options it is always the same that is named.
	for _, option := range slices.Sorted(maps.Keys(opts)) {
		if err := s.set(option, opts[option]); err != nil {
			return Spec{}, &Error{Code: CodeInvalid, Op: "create", Volume: name, Err: err}
		}
		s.Given = append(s.Given, option)
	}
	s.complete()
	if err := s.check(d); err != nil {
		return Spec{}, &Error{Code: CodeInvalid, Op: "create", Volume: name, Err: err}
	}
	return s, nil
}

// complete fills in what follows from other options.
func (s *Spec) complete() {
	given := func(option string) bool { return slices.Contains(s.Given, option) }
	if s.Backing == BackingDevice && !given("size") {
		s.Size = 0 // all of it, see create
	}
	if s.Backing == BackingLVM && s.Pool != "" && !given("alloc") {
		s.Alloc = AllocSparse // a thin volume is nothing else
	}
}

// set reads one option.
func (s *Spec) set(option, value string) error {
	fail := func(reason string) error { return &OptionError{Option: option, Value: value, Reason: reason} }
	var err error
	switch option {
	case "size":
		if s.Size, err = config.ParseSize(value); err != nil {
			return &OptionError{Option: option, Reason: strings.TrimPrefix(err.Error(), "size ")}
		}
	case "fs":
		s.FS = value
	case "backing":
		s.Backing = value
	case "uid", "gid":
		n, err := strconv.ParseUint(value, 10, 32)
		if err != nil || n > maxID {
			return fail(fmt.Sprintf("must be a number from 0 to %d; names are not looked up, since those of the container count", int64(maxID)))
		}
		if option == "uid" {
			s.UID = int(n)
		} else {
			s.GID = int(n)
		}
	case "mode":
		n, err := strconv.ParseUint(value, 8, 32)
		if err != nil || n > 0o7777 {
			return fail("must be octal permission bits, for example 0750")
		}
		s.Mode = uint32(n)
	case "mkfs":
		s.Mkfs = strings.TrimSpace(value)
	case "mount":
		s.Mount = strings.TrimSpace(value)
	case "alloc":
		s.Alloc = value
	case "discard":
		if s.Discard, err = parseBool(value); err != nil {
			return fail(err.Error())
		}
	case "ephemeral":
		if s.Ephemeral, err = parseBool(value); err != nil {
			return fail(err.Error())
		}
	case "device":
		s.Device = value
	case "vg":
		s.VG = value
	case "pool":
		s.Pool = value
	default:
		return unknownOption(option)
	}
	return nil
}

func parseBool(value string) (bool, error) {
	switch strings.ToLower(value) {
	case "true", "1", "yes", "on", "": // docker and mount write a bare "discard" as an empty value
		return true, nil
	case "false", "0", "no", "off":
		return false, nil
	}
	return false, fmt.Errorf("must be true or false")
}

// secretWords are parts of option names behind which people put keys. Their values are never repeated, not even in an error.
var secretWords = []string{"pass", "secret", "key", "pin", "token", "credential", "pwd"}

func unknownOption(option string) error {
	lower := strings.ToLower(option)
	for _, word := range secretWords {
		if strings.Contains(lower, word) {
			return &OptionError{Option: option, Reason: "a key is never an option of a volume: `docker volume inspect`, the Compose file and the shell's " +
				"history show options to everyone; voluks makes the keys itself and keeps them as its configuration says"}
		}
	}
	e := &OptionError{Option: option, Known: KnownOptions(), Nearest: nearest(lower)}
	e.Reason = "no such option; there are " + strings.Join(known, ", ")
	if e.Nearest != "" {
		e.Reason = fmt.Sprintf("no such option; did you mean %q? There are %s", e.Nearest, strings.Join(known, ", "))
	}
	return e
}

// nearest finds the known option that a misspelling most likely meant, "" if none is near.
func nearest(s string) string {
	best, dist := "", 3 // three edits in a short word are another word
	for _, k := range known {
		if d := editDistance(s, k); d < dist && d < len(k) {
			best, dist = k, d
		}
	}
	return best
}

// editDistance counts the insertions, deletions and substitutions that turn a into b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
