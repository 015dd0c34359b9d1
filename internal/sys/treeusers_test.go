// SPDX-License-Identifier: Apache-2.0

package sys

import "testing"

// What a container has mounted of a directory is found in its mount table; what a service's private namespace has copied from the host's is not a use, nor is
// the whole disk somewhere.
func TestMountsOver(t *testing.T) {
	at := func(major uint32, root, mountpoint string) MountInfo {
		return MountInfo{ID: int(major), Major: major, Root: root, Mountpoint: mountpoint}
	}
	own := []MountInfo{at(8, "/", "/"), at(9, "/", "/srv"), at(7, "/", "/proc")}
	for name, test := range map[string]struct {
		dir  string
		in   MountInfo
		uses bool
	}{
		"the directory":            {"/srv/up", at(9, "/up", "/data"), true},
		"at the same path":         {"/srv/up", at(9, "/up", "/srv/up"), true},
		"a part of it":             {"/srv/up", at(9, "/up/a/b", "/data"), true},
		"what begins like it":      {"/srv/up", at(9, "/upper", "/data"), false},
		"the whole disk":           {"/srv/up", at(9, "/", "/host/srv"), false},
		"a copy of the host's":     {"/srv", at(9, "/", "/srv"), false},
		"a disk of its own":        {"/srv", at(9, "/", "/data"), true},
		"another disk":             {"/srv/up", at(8, "/up", "/data"), false},
		"on the root file system":  {"/var/up", at(8, "/var/up", "/data"), true},
		"below a subvolume's root": {"/var/up", at(8, "/var", "/var"), false},
	} {
		users := mountsOver(test.dir, own, []MountNamespace{{PIDs: []int{1}, Mounts: own}, {PIDs: []int{1, 2}, Mounts: append(own[:3:3], test.in)}})
		if len(users) > 0 != test.uses {
			t.Errorf("%s: %v", name, users)
		}
		// The same in the caller's own namespace, where the place that it has by itself is none.
		mine := test.in
		mine.ID = 99
		users = mountsOver(test.dir, append(own[:3:3], mine), nil)
		if uses := test.uses && mine.Mountpoint != test.dir; len(users) > 0 != uses {
			t.Errorf("%s, here: %v", name, users)
		}
	}
}
