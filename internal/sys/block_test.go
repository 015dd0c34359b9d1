// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func fakeSys(t *testing.T, files map[string]string, links map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		p := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must(t, os.WriteFile(p, []byte(content), 0o600))
	}
	for name, target := range links {
		p := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		must(t, os.Symlink(filepath.Join(root, target), p))
	}
	return root
}

func TestSlaves(t *testing.T) {
	root := fakeSys(t, map[string]string{
		"devices/sda/dev": "8:0\n", "devices/sda/sda1/dev": "8:1\n", "devices/sda/sda1/partition": "1\n", "devices/dm-0/dev": "253:0\n",
		"devices/loop7/dev": "7:7\n", "devices/sda/sda1/holders/.keep/x": "",
	}, map[string]string{
		"dev/block/8:0": "devices/sda", "dev/block/8:1": "devices/sda/sda1", "dev/block/253:0": "devices/dm-0", "dev/block/7:7": "devices/loop7",
		"devices/dm-0/slaves/sda1": "devices/sda/sda1", "devices/dm-0/slaves/loop7": "devices/loop7", "devices/loop7/holders/dm-0": "devices/dm-0",
		"dev/block/9:9": "devices/gone",
	})
	for _, c := range []struct {
		major, minor uint32
		list         string
		want         []Dev
	}{
		{253, 0, "slaves", []Dev{{7, 7, "loop7"}, {8, 1, "sda1"}}},
		{8, 1, "slaves", []Dev{{8, 0, "sda"}}},
		{8, 0, "slaves", nil},
		{7, 7, "slaves", nil},
		{7, 7, "holders", []Dev{{253, 0, "dm-0"}}},
	} {
		got, err := sysDevs(root, c.major, c.minor, c.list)
		if err != nil || len(got) != len(c.want) {
			t.Errorf("%s of %d:%d: %v, %v", c.list, c.major, c.minor, got, err)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("%s of %d:%d: %v", c.list, c.major, c.minor, got)
			}
		}
	}
	// F12: a device that is not there has no answer, which differs from having no slaves.
	for _, minor := range []uint32{9, 10} {
		if got, err := sysDevs(root, 9, minor, "slaves"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("9:%d: %v, %v", minor, got, err)
		}
	}
}
