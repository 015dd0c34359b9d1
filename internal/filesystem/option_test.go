// SPDX-License-Identifier: Apache-2.0

package filesystem

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestParseMkfs(t *testing.T) {
	for _, c := range []struct {
		t    Type
		in   string
		want []string
	}{
		{Ext4, "", nil},
		{Ext4, "  -m 0\t-i 16k ", []string{"-m", "0", "-i", "16k"}},
		{Ext4, "-m0 -Estride=16,stripe_width=32", []string{"-m", "0", "-E", "stride=16,stripe_width=32"}},
		{Ext4, "-O ^metadata_csum,64bit -J size=64", []string{"-O", "^metadata_csum,64bit", "-J", "size=64"}},
		{XFS, "-m reflink=0,rmapbt=1 -l size=32m -i size=1024", []string{"-m", "reflink=0,rmapbt=1", "-l", "size=32m", "-i", "size=1024"}},
		{Btrfs, "-m single -d dup --csum=sha256 -n 32k", []string{"-m", "single", "-d", "dup", "--csum", "sha256", "-n", "32k"}},
		{Btrfs, "--csum sha256", []string{"--csum", "sha256"}},
	} {
		got, err := ParseMkfs(c.t, c.in)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %q: %q, %v", c.t, c.in, got, err)
		}
	}
}

func TestParseMkfsRefuses(t *testing.T) {
	for _, c := range []struct {
		t    Type
		in   string
		want string // part of the message
	}{
		{Ext4, "-J device=/dev/sdb", "external journal"},
		{Ext4, "-J size=64,device=/dev/sdb", "external journal"},
		{Ext4, "-J size=64,location=5", "-J size=4..40960"},
		{Ext4, "-J", "needs a value"},
		{Ext4, "-d /etc", "files of the host"},
		{Ext4, "-d/etc", "files of the host"},
		{Ext4, "-m 51", "-m 0..50"},
		{Ext4, "-m -1", "-m 0..50"},
		{Ext4, "-m 0x10", "-m 0..50"},
		{Ext4, "-m 1k", "-m 0..50"},
		{Ext4, "-m 99999999999999999999", "-m 0..50"},
		{Ext4, "-m 0 -m 1", "twice"},
		{Ext4, "-E stride=1,stride=2", "twice"},
		{Ext4, "-E discard", "discard=true"},
		{Ext4, "-E lazy_itable_init=2", "0|1"},
		{Ext4, "-E stride", "0..2147483647"},
		{Ext4, "-E root_owner=0:0", "stride"},
		{Ext4, "-O ^has_journal", "power cut"},
		{Ext4, "-O encrypt", "metadata_csum"},
		{Ext4, "-O 64bit,,quota", "quota"},
		{Ext4, "-U random", "chooses the UUID"},
		{Ext4, "-F", "overwritten"},
		{Ext4, "-q", "-m 0..50"},
		{Ext4, "/dev/sda", "-m 0..50"},
		{Ext4, "-- /dev/sda", "-m 0..50"},
		{Ext4, "-i 1g", "-i"},
		{Ext4, "-T news;reboot", "news"},
		{XFS, "-l logdev=/dev/sdb,size=64m", "external log"},
		{XFS, "-l size=1k", "-l size="},
		{XFS, "-r rtdev=/dev/sdb", "real-time"},
		{XFS, "-d name=/dev/sdb", "own device"},
		{XFS, "-m uuid=x", "chooses the UUID"},
		{XFS, "-p /etc/passwd", "files of the host"},
		{XFS, "-f", "overwritten"},
		{XFS, "-m 5", "crc=0|1"},
		{Btrfs, "-r /etc", "files of the host"},
		{Btrfs, "--rootdir=/etc", "-m single|dup"},
		{Btrfs, "-m raid1", "-m single|dup"},
		{Btrfs, "-m single /dev/sdb", "--csum"},
		{Btrfs, "--csum", "needs a value"},
		{Btrfs, "--csum=", "needs a value"},
		{"ext3", "", "must be one of"},
		{"", "", "must be one of"},
	} {
		got, err := ParseMkfs(c.t, c.in)
		var o *OptionError
		if err == nil || got != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: %q, %v; want an error with %q", c.t, c.in, got, err, c.want)
		}
		if slices.Contains(Types(), c.t) && (!errors.As(err, &o) || o.Kind != "mkfs" || o.Type != c.t || o.Option == "") {
			t.Errorf("%s %q: %#v", c.t, c.in, err)
		}
	}
}

func TestParseMount(t *testing.T) {
	for _, c := range []struct {
		t     Type
		in    string
		want  []string
		flags uintptr
		data  string
	}{
		{Ext4, "", nil, sys.MountNoSUID | sys.MountNoDev, "nodiscard,errors=remount-ro"},
		{Ext4, "noatime, commit=30 ,data=journal", []string{"noatime", "commit=30", "data=journal"}, sys.MountNoSUID | sys.MountNoDev | sys.MountNoATime,
			"commit=30,data=journal,nodiscard,errors=remount-ro"},
		{Ext4, "suid,dev,noexec,lazytime", []string{"suid", "dev", "noexec", "lazytime"}, sys.MountNoExec | sys.MountLazyTime, "nodiscard,errors=remount-ro"},
		{Ext4, "noatime,strictatime", []string{"noatime", "strictatime"}, sys.MountNoSUID | sys.MountNoDev | sys.MountStrictATime, "nodiscard,errors=remount-ro"},
		{XFS, "logbsize=256k,allocsize=64m", []string{"logbsize=256k", "allocsize=64m"}, sys.MountNoSUID | sys.MountNoDev, "logbsize=256k,allocsize=64m,nodiscard"},
		{Btrfs, "compress=zstd:3,noatime", []string{"compress=zstd:3", "noatime"}, sys.MountNoSUID | sys.MountNoDev | sys.MountNoATime, "compress=zstd:3,nodiscard"},
		{Btrfs, "compress", []string{"compress"}, sys.MountNoSUID | sys.MountNoDev, "compress,nodiscard"},
	} {
		got, err := ParseMount(c.t, c.in)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %q: %q, %v", c.t, c.in, got, err)
		}
		flags, data := mountArgs(Spec{Type: c.t, Mount: got})
		if flags != c.flags || data != c.data {
			t.Errorf("%s %q: flags %#x, data %q", c.t, c.in, flags, data)
		}
	}
}

func TestParseMountRefuses(t *testing.T) {
	for _, c := range []struct {
		t    Type
		in   string
		want string
	}{
		{Ext4, "journal_dev=8:1", "external journal"},
		{Ext4, "journal_path=/dev/sdb", "external journal"},
		{Ext4, "data=writeback", "data=ordered|journal"},
		{Ext4, "errors=continue", "read-only"},
		{Ext4, "discard", "discard=true"},
		{Ext4, "nobarrier", "power cut"},
		{Ext4, "barrier=0", "barrier[=1]"},
		{Ext4, "noload", "power cut"},
		{Ext4, "sb=32768", "commit=1..300"},
		{Ext4, "commit=0", "commit=1..300"},
		{Ext4, "commit", "commit=1..300"},
		{Ext4, "noatime=1", "noatime"},
		{Ext4, "acl=1", "acl"},
		{Ext4, "noatime,,acl", "noatime"},
		{Ext4, "ro", "where the volume is used"},
		{Ext4, "noatime acl", "noatime"},
		{Ext4, "context=x", "commit"},
		{XFS, "logdev=/dev/sdb", "external log"},
		{XFS, "rtdev=/dev/sdb", "real-time"},
		{XFS, "logbufs=9", "logbufs=2..8"},
		{XFS, "norecovery", "power cut"},
		{Btrfs, "device=/dev/sdb", "further devices"},
		{Btrfs, "subvol=/x", "compress"},
		{Btrfs, "discard=async", "discard=true"},
		{Btrfs, "compress=gzip", "zstd"},
		{"zfs", "noatime", "must be one of"},
	} {
		got, err := ParseMount(c.t, c.in)
		var o *OptionError
		if err == nil || got != nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %q: %q, %v; want an error with %q", c.t, c.in, got, err, c.want)
		}
		if slices.Contains(Types(), c.t) && (!errors.As(err, &o) || o.Kind != "mount") {
			t.Errorf("%s %q: %#v", c.t, c.in, err)
		}
	}
}

// F45: whether discards are passed on is always said, and never left to a default.
func TestDiscardIsExplicit(t *testing.T) {
	for _, typ := range Types() {
		s := Spec{Type: typ, UUID: uuid}
		off, err := mkfsArgs(s)
		must(t, err)
		_, offData := mountArgs(s)
		s.Discard = true
		on, err := mkfsArgs(s)
		must(t, err)
		_, onData := mountArgs(s)
		says := map[Type]string{Ext4: "nodiscard", XFS: "-K", Btrfs: "-K"}[typ]
		if !strings.Contains(strings.Join(off, " "), says) || strings.Contains(strings.Join(on, " "), says) != (typ == Btrfs) {
			t.Errorf("%s: mkfs %q and %q", typ, off, on)
		}
		if !strings.Contains(offData, "nodiscard") || strings.Contains(onData, "nodiscard") || !strings.Contains(onData, "discard") {
			t.Errorf("%s: mount %q and %q", typ, offData, onData)
		}
	}
}

const uuid = "01234567-89ab-4cde-8f01-23456789abcd"

func TestMkfsArgs(t *testing.T) {
	args, err := mkfsArgs(Spec{Type: Ext4, UUID: uuid, Label: "db", Mkfs: []string{"-E", "stride=4,lazy_itable_init=0", "-m", "0"}})
	must(t, err)
	want := "-E stride=4,lazy_itable_init=0,nodiscard,lazy_journal_init=1 -m 0 -q -L db -b 4096 -U " + uuid + " -e remount-ro"
	if got := strings.Join(args, " "); got != want {
		t.Errorf("ext4: %s", got)
	}
	args, err = mkfsArgs(Spec{Type: XFS, UUID: uuid, Mkfs: []string{"-m", "reflink=0"}})
	must(t, err)
	if got := strings.Join(args, " "); got != "-m reflink=0,uuid="+uuid+" -q -K" {
		t.Errorf("xfs: %s", got)
	}
	for name, s := range map[string]Spec{
		"no UUID":          {Type: Ext4},
		"UUID in capitals": {Type: Ext4, UUID: strings.ToUpper(uuid)},
		"UUID random":      {Type: Btrfs, UUID: "random"},
		"label too long":   {Type: XFS, UUID: uuid, Label: "thirteenbytes"},
		"label ext4":       {Type: Ext4, UUID: uuid, Label: "seventeen-bytes-x"},
		"label controls":   {Type: Ext4, UUID: uuid, Label: "a\nb"},
		"bad option":       {Type: Ext4, UUID: uuid, Mkfs: []string{"-d", "/etc"}}, // as from a record that somebody has edited
		"no type":          {UUID: uuid},
	} {
		if args, err := mkfsArgs(s); err == nil {
			t.Errorf("%s: %q", name, args)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"-m 0 -E stride=1", "-Jdevice=x", "--csum=sha256", "noatime,commit=5", "-O ^64bit", "compress=zstd:3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, typ := range Types() {
			// Whatever is accepted stays accepted, unchanged, and holds nothing that could be taken for a device or path.
			args, err := ParseMkfs(typ, s)
			if again, err2 := ParseMkfs(typ, strings.Join(args, " ")); err == nil && (err2 != nil || !slices.Equal(args, again)) {
				t.Errorf("%s %q: %q, then %q, %v", typ, s, args, again, err2)
			}
			opts, err := ParseMount(typ, s)
			if again, err2 := ParseMount(typ, strings.Join(opts, ",")); err == nil && (err2 != nil || !slices.Equal(opts, again)) {
				t.Errorf("%s %q: %q, then %q, %v", typ, s, opts, again, err2)
			}
			for _, a := range slices.Concat(args, opts) {
				if strings.ContainsAny(a, "/ \t\n;$`'\"\\") {
					t.Errorf("%s %q: %q", typ, s, a)
				}
			}
		}
	})
}
