// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"testing"

	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/luks"
)

// F45: the kernel's table has the flags that were chosen when the volume was made, after every start, whatever the configuration says by then; the header
// has them for others; and what the table has beyond that is no proof.
func TestFlagsOfTheTable(t *testing.T) {
	for _, c := range []struct {
		discard, workqueue string
		rotating           bool
		want               luks.Flags
	}{
		{"false", "", true, luks.Flags{}},
		{"true", "", true, luks.Flags{Discards: true}},
		{"false", "", false, luks.Flags{NoReadWorkqueue: true, NoWriteWorkqueue: true}},
		{"true", volume.WorkqueueOff, true, luks.Flags{Discards: true, NoReadWorkqueue: true, NoWriteWorkqueue: true}},
		{"false", volume.WorkqueueOn, false, luks.Flags{}},
	} {
		n := diskNode(t)
		n.Rotate(c.rotating)
		n.Defaults.Workqueue = c.workqueue
		create(t, n, "db", append([]string{"discard=" + c.discard}, onDevice...)...)
		n.Defaults.Workqueue = ""
		n.Rotate(!c.rotating)
		for range 2 {
			n.Reboot()
			mount(t, n, "db", docker("a")) // which compares the table
			info, err := n.Manager().Inspect(t.Context(), "db")
			if err != nil || info.State != volume.StateMounted || (info.Workqueue == volume.WorkqueueOff) != c.want.NoReadWorkqueue {
				t.Errorf("%+v: got %+v, %v", c, info, err)
			}
		}
		if got := n.HeaderFlags(diskName); got != c.want {
			t.Errorf("%+v: the header has %+v", c, got)
		}
		_, err := n.Manager().Trim(t.Context(), "db")
		if (err == nil) != c.want.Discards || err != nil && !errors.Is(err, volume.ErrInvalid) {
			t.Errorf("%+v: trim: %v", c, err)
		}
	}
}

func TestTrim(t *testing.T) {
	n := diskNode(t)
	create(t, n, "db", "size=64M", "alloc=sparse", "discard=true")
	if _, err := n.Manager().Trim(t.Context(), "db"); !errors.Is(err, volume.ErrNotMounted) {
		t.Errorf("closed: %v", err)
	}
	mount(t, n, "db", docker("a"))
	if bytes, err := n.Manager().Trim(t.Context(), "db"); err != nil || bytes <= 0 {
		t.Errorf("%d bytes, %v", bytes, err)
	}
	if _, err := n.Manager().Trim(t.Context(), "none"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("none: %v", err)
	}
}
