// SPDX-License-Identifier: Apache-2.0

package filesystem

import (
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/testenv"
)

// example returns a value that a rule allows.
func (v value) example() string {
	switch {
	case len(v.words) > 0:
		return v.words[len(v.words)-1]
	case v.min > 16:
		return "65536"
	}
	return "16"
}

// newer are options that the oldest supported mkfs does not know; there it says so itself.
var newer = []string{"nrext64", "exchange", "parent", "num_backup_sb", "packed_meta_blocks", "orphan_file", "block-group-tree", "fast_commit_size", "quotatype"}

// The lists are true: what they allow, mkfs takes, and makes what Probe recognises. No root is needed for a file system in a file.
func TestMkfsTakesWhatTheListsAllow(t *testing.T) {
	for _, typ := range Types() {
		for name, o := range mkfsTables[typ] {
			var cases []string
			switch {
			case o.sub != nil:
				for _, key := range slices.Sorted(maps.Keys(o.sub)) {
					cases = append(cases, name+" "+key+"="+o.sub[key].example())
				}
			case o.value.list:
				for _, w := range o.value.words {
					cases = append(cases, name+" "+w)
				}
			default:
				cases = append(cases, name+" "+o.value.example())
			}
			for _, c := range cases {
				t.Run(string(typ)+" "+c, func(t *testing.T) {
					t.Parallel()
					if slices.ContainsFunc(newer, func(n string) bool { return strings.Contains(c, n) }) {
						return
					}
					mkfs, err := ParseMkfs(typ, special(c))
					must(t, err)
					path := device(t, "320M")
					out, err := runMkfs(t, Spec{Type: typ, UUID: uuid, Mkfs: mkfs}, path)
					if err != nil {
						t.Errorf("%v: %s", err, out)
						return
					}
					must(t, checkDevice(path, typ, uuid))
				})
			}
		}
	}
}

// special puts beside an option what it cannot do without, or a value that suits a small device.
func special(c string) string {
	switch c {
	case "-E stripe_width=16":
		return "-E stride=16,stripe_width=16"
	case "-l size=65536":
		return "-l size=64m"
	case "-I 1024":
		return "-I 512"
	case "-O sparse_super2":
		return "-O sparse_super2,^resize_inode"
	case "-m crc=1", "-m finobt=1":
		return "-m crc=1,finobt=1"
	}
	return c
}

func device(t *testing.T, size string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "device")
	if out, err := exec.Command("truncate", "-s", size, path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return path
}

func runMkfs(t *testing.T, s Spec, path string) (string, error) {
	t.Helper()
	args, err := mkfsArgs(s)
	must(t, err)
	name, _ := mkfsTool(s.Type)
	out, err := exec.Command(name, append(args, path)...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		testenv.Missing(t, "tools", err.Error())
	}
	return string(out), err
}

func TestProbe(t *testing.T) {
	for _, typ := range Types() {
		t.Run(string(typ), func(t *testing.T) {
			path := device(t, "320M")
			if sig, err := Probe(t.Context(), path); err != nil || sig != nil {
				t.Errorf("blank: %+v, %v", sig, err)
			}
			if out, err := runMkfs(t, Spec{Type: typ, UUID: uuid, Label: `a "b" c`}, path); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			sig, err := Probe(t.Context(), path)
			if err != nil || *sig != (Signature{string(typ), uuid, `a "b" c`}) {
				t.Errorf("%+v, %v", sig, err)
			}
			for _, other := range Types() {
				var m *MismatchError
				if err := checkDevice(path, other, uuid); (err == nil) != (other == typ) || err != nil && !errors.As(err, &m) {
					t.Errorf("taken for %s: %v", other, err)
				}
			}
			var m *MismatchError
			if err := checkDevice(path, typ, strings.Replace(uuid, "0", "1", 1)); !errors.As(err, &m) || m.Got != uuid {
				t.Errorf("another UUID: %v", err)
			}
		})
	}
	// F5: random bytes at the start of the device do not hide what is asked for; a device that has two things is not one to decide about.
	path := device(t, "320M")
	for _, typ := range []Type{Ext4, XFS} {
		if out, err := runMkfs(t, Spec{Type: typ, UUID: uuid, Mkfs: nil}, path); err != nil && typ == Ext4 {
			t.Fatalf("%v: %s", err, out)
		}
	}
	must(t, checkDevice(path, Ext4, uuid))
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt([]byte("LUKS\xba\xbe\x00\x02"), 0)
	must(t, err)
	must(t, f.Close())
	must(t, checkDevice(path, Ext4, uuid))
	if sig, err := Probe(t.Context(), path); err == nil && (sig == nil || sig.Type == "") {
		t.Errorf("two signatures: %+v", sig)
	}
}

func TestProbeErrors(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty")
	must(t, os.WriteFile(empty, nil, 0o600))
	for _, path := range []string{empty, "/dev/null", filepath.Join(t.TempDir(), "none"), t.TempDir()} {
		if sig, err := Probe(t.Context(), path); err == nil {
			t.Errorf("%s: %+v", path, sig)
		}
	}
	path := device(t, "1M")
	t.Setenv("PATH", t.TempDir())
	if _, err := os.Stat("/usr/sbin/blkid"); err == nil {
		// The sbin directories are searched in any case.
		if _, err := Probe(t.Context(), path); err != nil {
			t.Error(err)
		}
	}
}

func TestMakeRefusesWhatIsNoDevice(t *testing.T) {
	path := device(t, "320M")
	for _, p := range []string{path, "/dev/null", t.TempDir(), filepath.Join(t.TempDir(), "none")} {
		if err := Make(t.Context(), p, Spec{Type: Ext4, UUID: uuid, Overwrite: true}); err == nil {
			t.Errorf("%s: made a file system", p)
		}
	}
	if sig, err := Probe(t.Context(), path); err != nil || sig != nil {
		t.Errorf("%+v, %v", sig, err)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	for e, want := range map[error]string{
		&ErrNoTool{Tool: "mkfs.xfs", Package: "xfsprogs"}:                "mkfs.xfs is not installed: install the package xfsprogs",
		&SizeError{Type: XFS, Size: 100 << 20, Min: MinSize(XFS)}:        "xfs needs at least 300 MiB, and the device has 100.0 MiB",
		&SignatureError{Device: "/dev/x", Found: Signature{"a", "", ""}}: "/dev/x holds a already",
	} {
		if e.Error() != want {
			t.Errorf("%q", e.Error())
		}
	}
}
