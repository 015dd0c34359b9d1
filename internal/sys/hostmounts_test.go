// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"strings"
	"testing"
)

// Docker's directory is found whatever an earlier life of the plugin, or Docker itself at that moment, has made of it. As seen with Docker 26.
func TestOutletOf(t *testing.T) {
	const (
		dir    = "/var/lib/voluks/mnt"
		outlet = "/var/lib/docker/plugins/adeb99/propagated-mount"
		root   = "16 1 98:0 / / rw shared:1 - ext4 /dev/root rw\n"
		docker = "33 16 98:0 " + outlet + " " + outlet + " rw shared:4 - ext4 /dev/root rw\n"
		state  = "51 50 98:0 /var/lib/voluks /var/lib/voluks rw - ext4 /dev/root rw\n"
	)
	for name, c := range map[string]struct{ hosts, ours string }{
		"started":         {root + docker, "50 1 98:0 " + outlet + " " + dir + " rw shared:4 - ext4 /dev/root rw\n" + state},
		"after a crash":   {root + docker + "62 33 98:0 " + dir + " " + outlet + " rw shared:40 master:1 - ext4 /dev/root rw\n", "50 1 98:0 " + dir + " " + dir + " rw shared:40 master:1 - ext4 /dev/root rw\n" + state},
		"unmounted again": {root, "50 1 98:0 " + outlet + " " + dir + " rw - ext4 /dev/root rw\n" + state},
		"a disk of its own": {root + "20 16 98:16 / /var/lib/docker rw shared:3 - ext4 /dev/sdb rw\n",
			"50 1 98:16 /plugins/adeb99/propagated-mount " + dir + " rw - ext4 /dev/sdb rw\n"},
	} {
		parse := func(text string) []MountInfo {
			all, err := ParseMountInfo(strings.NewReader(text))
			if err != nil {
				t.Fatal(err)
			}
			return all
		}
		if got, err := outletOf(parse(c.hosts), parse(c.ours), dir); got != outlet || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := outletOf(nil, []MountInfo{{Mountpoint: dir, Root: "/var/lib/voluks/mnt"}}, dir); err == nil {
		t.Errorf("without a managed plugin: %q", got)
	}
}
