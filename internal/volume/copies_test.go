// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/sys"
)

// The copies that come and go with a volume's mount are told from those that stay and keep it busy. As seen with a managed plugin of Docker 26. F17 F22
func TestCopiesOfOurMount(t *testing.T) {
	const (
		outlet = "/var/lib/docker/plugins/adeb99/propagated-mount"
		host   = "16 1 98:0 / / rw shared:1 - ext4 /dev/root rw\n" +
			"33 16 98:0 " + outlet + " " + outlet + " rw - ext4 /dev/root rw\n" +
			"62 33 98:0 /var/lib/voluks/mnt " + outlet + " rw master:1 - ext4 /dev/root rw\n" +
			"86 16 254:0 / /var/lib/voluks/mnt/v1 rw shared:36 - ext4 /dev/mapper/voluks-x rw\n" +
			"87 62 254:0 / " + outlet + "/v1 rw master:36 - ext4 /dev/mapper/voluks-x rw\n" +
			"90 16 98:0 /srv /srv rw - ext4 /dev/root rw\n" +
			"91 90 254:0 / /srv/v1 rw master:36 - ext4 /dev/mapper/voluks-x rw\n" + // somebody's own: it stays
			"92 62 254:0 / " + outlet + "/v2 rw master:36 - ext4 /dev/mapper/voluks-x rw\n" + // so does one at another volume's place
			"93 16 254:0 /data /srv/data rw shared:36 - ext4 /dev/mapper/voluks-x rw\n" // a container's
	)
	table, err := sys.ParseMountInfo(strings.NewReader(host))
	if err != nil {
		t.Fatal(err)
	}
	v := &view{mounts: table, tree: newMountTree(table), mountsDir: "/var/lib/voluks/mnt"}
	r := &record{Name: "v1"}
	for _, m := range table {
		if m.Major != 254 {
			continue
		}
		want := m.ID == 86 || m.ID == 87
		if got := v.comesWithOurs(table, m, r); got != want {
			t.Errorf("mount %d at %s: %v", m.ID, m.Mountpoint, got)
		}
	}
}
