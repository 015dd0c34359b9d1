// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestParseMountInfo(t *testing.T) {
	const table = `36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 shared:7 - ext3 /dev/ro\134ot rw,errors=continue
40 36 0:41 / /a\012b\011c\043d rw - btrfs /dev/mapper/x rw,subvolid=5,subvol=/
41 36 0:42 / /empty rw - tmpfs  rw
`
	got, err := ParseMountInfo(strings.NewReader(table))
	if err != nil {
		t.Fatal(err)
	}
	want := []MountInfo{
		{ID: 36, Parent: 35, Major: 98, Root: "/mnt1", Mountpoint: "/mnt 2", Options: "rw,noatime", Propagation: "master:1 shared:7", FSType: "ext3",
			Source: `/dev/ro\ot`, SuperOptions: "rw,errors=continue"},
		{ID: 40, Parent: 36, Minor: 41, Root: "/", Mountpoint: "/a\nb\tc#d", Options: "rw", FSType: "btrfs", Source: "/dev/mapper/x",
			SuperOptions: "rw,subvolid=5,subvol=/"},
		{ID: 41, Parent: 36, Minor: 42, Root: "/", Mountpoint: "/empty", Options: "rw", FSType: "tmpfs", SuperOptions: "rw"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	// F51: a line that is not understood is not an absent mount.
	for _, bad := range []string{"\n", "36 35 98:0 /", table + "x", "x 35 98:0 / /m rw - ext4 s rw\n", "36 x 98:0 / /m rw - ext4 s rw\n",
		"36 35 98 / /m rw - ext4 s rw\n", "36 35 98:0 / /m rw ext4 s rw\n", "36 35 98:-1 / /m rw - ext4 s rw\n"} {
		if m, err := ParseMountInfo(strings.NewReader(bad)); err == nil || m != nil {
			t.Errorf("%q: %v, %v", bad, m, err)
		}
	}
}

func TestMountInfoOfSelf(t *testing.T) {
	m, err := MountInfoOf("self")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range m {
		if e.Mountpoint == "/proc" && e.FSType == "proc" {
			return
		}
	}
	t.Errorf("no /proc among %d mounts", len(m))
}

func FuzzMountInfo(f *testing.F) {
	f.Add([]byte("36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw\n"))
	f.Add([]byte("1 1 1:1 \\9 \\777 \\ - - - - - - "))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMountInfo(bytes.NewReader(b))
		if err != nil && m != nil {
			t.Error("result with an error")
		}
		if err == nil && len(m) != bytes.Count(append(bytes.TrimSuffix(b, []byte("\n")), '\n'), []byte("\n")) && len(b) > 0 {
			t.Errorf("%d mounts of %q", len(m), b)
		}
	})
}

// fakeProc makes a /proc with processes of given state; ns "" is one that has no namespace link.
func fakeProc(t *testing.T, procs map[string]struct{ ns, state, mounts string }) string {
	t.Helper()
	root := t.TempDir()
	for pid, p := range procs {
		dir := filepath.Join(root, pid)
		must(t, os.MkdirAll(filepath.Join(dir, "ns"), 0o755))
		if p.ns != "" {
			// A namespace is known by the inode that the link leads to.
			ns := filepath.Join(root, "ns-"+p.ns)
			must(t, os.WriteFile(ns, nil, 0o600))
			must(t, os.Symlink(ns, filepath.Join(dir, "ns/mnt")))
		}
		if p.mounts != "" {
			must(t, os.WriteFile(filepath.Join(dir, "mountinfo"), []byte(p.mounts), 0o600))
		}
		must(t, os.WriteFile(filepath.Join(dir, "stat"), []byte(pid+" (x) "+p.state+" 1 2 3 4 5 0 7 8 9 10 11 12 13 14 15 16 17 18 19 20"), 0o600))
	}
	return root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// F51: what cannot be read is unknown, never gone; what is gone is not unknown.
func TestMountNamespaces(t *testing.T) {
	type procs = map[string]struct{ ns, state, mounts string }
	const host, other = "1 1 8:0 / / rw - ext4 /dev/sda rw\n", "2 2 8:16 / /data rw - ext4 /dev/sdb rw\n"
	t.Run("several", func(t *testing.T) {
		got, err := mountNamespaces(fakeProc(t, procs{"1": {"a", "S", host}, "2": {"a", "S", host}, "30": {"b", "R", other}, "x": {}, "40": {"", "Z", ""}}))
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 2 || len(got[0].PIDs)+len(got[1].PIDs) != 3 || len(got[0].Mounts) != 1 || got[0].NS == got[1].NS {
			t.Errorf("%+v", got)
		}
	})
	t.Run("first process of the namespace is a zombie by now", func(t *testing.T) {
		got, err := mountNamespaces(fakeProc(t, procs{"1": {"a", "Z", ""}, "2": {"a", "S", host}}))
		if err != nil || len(got) != 1 || len(got[0].Mounts) != 1 {
			t.Errorf("%+v, %v", got, err)
		}
	})
	for name, p := range map[string]procs{
		"no process":                  {},
		"living without a namespace":  {"1": {"a", "S", host}, "2": {"", "S", ""}},
		"living without a mountinfo":  {"1": {"a", "S", host}, "2": {"b", "S", ""}},
		"a mountinfo that is garbage": {"1": {"a", "S", host}, "2": {"b", "S", "garbage\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := mountNamespaces(fakeProc(t, p)); !errors.Is(err, ErrUnknown) {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
	t.Run("no proc", func(t *testing.T) {
		if _, err := mountNamespaces(filepath.Join(t.TempDir(), "proc")); !errors.Is(err, ErrUnknown) {
			t.Error(err)
		}
	})
}
