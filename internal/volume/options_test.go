// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/volume"
)

var defaults = volume.Defaults{Size: 10 << 30, FS: "ext4"}

func TestParseOptionsDefaults(t *testing.T) {
	s, err := volume.ParseOptions("db", nil, defaults)
	if err != nil {
		t.Fatal(err)
	}
	want := volume.Spec{Name: "db", Size: 10 << 30, FS: "ext4", Backing: "image", Mode: 0o755, Alloc: "full"}
	if s.Given != nil || s.Name != want.Name || s.Size != want.Size || s.FS != want.FS || s.Backing != want.Backing || s.Mode != want.Mode || s.Alloc != want.Alloc {
		t.Errorf("got %+v, want %+v", s, want)
	}
}

func TestParseOptions(t *testing.T) {
	s, err := volume.ParseOptions("db", map[string]string{
		"size": "1024M", "fs": "xfs", "uid": "999", "gid": "70", "mode": "0700", "alloc": "sparse", "discard": "",
	}, volume.Defaults{Size: 1 << 30, FS: "ext4", Overcommit: true})
	if err != nil {
		t.Fatal(err)
	}
	if s.Size != 1<<30 || s.FS != "xfs" || s.UID != 999 || s.GID != 70 || s.Mode != 0o700 || s.Alloc != "sparse" || !s.Discard {
		t.Errorf("got %+v", s)
	}
	if want := []string{"alloc", "discard", "fs", "gid", "mode", "size", "uid"}; !slices.Equal(s.Given, want) {
		t.Errorf("given %v, want %v", s.Given, want)
	}
}

// Each refusal names the option and says what would be right.
func TestParseOptionsRefuses(t *testing.T) {
	for _, c := range []struct{ option, value, says string }{
		{"size", "0", "write for example"},
		{"size", "10", "10G"},
		{"size", "-1G", "negative"},
		{"size", "1E", "largest"},
		{"size", "1M", "at least"},
		{"fs", "zfs", "ext4, xfs, btrfs"},
		{"fs", "", "ext4, xfs, btrfs"},
		{"backing", "tape", "must be image"},
		{"device", "/dev/sdb", "goes with backing=device"},
		{"uid", "postgres", "number"},
		{"uid", "-1", "number"},
		{"gid", "4294967295", "number"},
		{"mode", "0999", "octal"},
		{"mode", "17777", "octal"},
		{"alloc", "lazy", "full or sparse"},
		{"alloc", "sparse", "overcommit"},
		{"discard", "maybe", "true or false"},
		{"discard", "true", "alloc=full"},
		{"sise", "1G", `did you mean "size"`},
		{"Size", "1G", `did you mean "size"`},
		{"colour", "red", "there are size"},
		{"mkfs", "-J device=/dev/sdb", "device"},
		{"mkfs", "-d /etc", "-d"},
		{"mount", "usrquota=/etc/passwd", "usrquota"},
	} {
		_, err := volume.ParseOptions("db", map[string]string{c.option: c.value}, defaults)
		if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s=%q: %v; want it to say %q", c.option, c.value, err, c.says)
		}
	}
}

// F41: options are shown to everyone by docker volume inspect. The value is not repeated by the error, which ends up in logs.
func TestParseOptionsRefusesSecrets(t *testing.T) {
	for _, option := range []string{"passphrase", "PASSWORD", "key", "keyfile", "luks-key", "secret", "token", "pin", "db_pwd"} {
		_, err := volume.ParseOptions("db", map[string]string{option: "hunter2"}, defaults)
		if !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "inspect") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", option, err)
		}
	}
}

func TestUnknownOptionNamesTheNearest(t *testing.T) {
	_, err := volume.ParseOptions("db", map[string]string{"mod": "0700"}, defaults)
	var o *volume.OptionError
	if !errors.As(err, &o) || o.Nearest != "mode" || !slices.Equal(o.Known, volume.KnownOptions()) {
		t.Errorf("got %v", err)
	}
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "db", "my_stack.db-1", strings.Repeat("x", 250), "0", strings.Repeat("f", 64)} {
		if err := volume.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "..", ".", "a/b", "/", "-a", "_a", "a b", "a\x00", "a\n", "é", strings.Repeat("x", 251), strings.Repeat("x", 256)} {
		err := volume.CheckName(name)
		if err == nil {
			t.Errorf("%q is accepted", name)
		} else if len(err.Error()) > 200 {
			t.Errorf("error of %d bytes", len(err.Error()))
		}
	}
}
