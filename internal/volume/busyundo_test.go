// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"context"
	"testing"

	"github.com/voluks/voluks/internal/volume/volumetest"
)

// A creation that fails while somebody has its new mapping open stays under its name, where it is found and closed later: renamed out of sight, its
// loop device, mapping and space would be nobody's until the next boot. F13
func TestFailedCreateThatSomebodyKeepsOpen(t *testing.T) {
	n := volumetest.NewNode(t)
	ctx, cancel := context.WithCancel(t.Context())
	var private string
	m := n.ManagerAt(func(point string) {
		switch point {
		case "create.opened":
			info, err := n.Manager().Inspect(t.Context(), "db")
			if err != nil {
				t.Fatal(err)
			}
			private = n.Paths.Run + "/private/" + info.UUID
			n.KeepOpen(private, true) // a scanner, say
		case "create.data":
			cancel()
		}
	})
	if _, _, err := m.Create(ctx, spec(t, n, "db")); err == nil {
		t.Fatal("success")
	}
	if names, err := n.Manager().Unsettled(t.Context()); err != nil || len(names) != 1 {
		t.Errorf("unsettled: %q, %v", names, err)
	}
	n.KeepOpen(private, false)
	if err := n.Manager().Reconcile(t.Context()); err != nil {
		t.Error(err)
	}
	if got := n.Tables(); len(got) != 0 {
		t.Errorf("left in the kernel: %q", got)
	}
	if _, made, err := n.Manager().Create(t.Context(), spec(t, n, "db")); err != nil || !made {
		t.Errorf("made %t, %v", made, err)
	}
}
