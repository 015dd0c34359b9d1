// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/voluks/voluks/internal/volume/volumetest"
)

// BenchmarkList lists a thousand volumes, of which ten are mounted, and inspects one of them.
func BenchmarkList(b *testing.B) {
	n := volumetest.NewNode(b)
	for i := range 10 {
		create(b, n, fmt.Sprint("open", i))
		mount(b, n, fmt.Sprint("open", i), docker("a"))
	}
	info := create(b, n, "closed")
	record, err := os.ReadFile(filepath.Join(n.Paths.VolumeDir("closed"), "record.json"))
	if err != nil {
		b.Fatal(err)
	}
	for i := range 989 {
		name := fmt.Sprint("v", i)
		if err := os.Mkdir(n.Paths.VolumeDir(name), 0o700); err != nil {
			b.Fatal(err)
		}
		other := strings.NewReplacer(`"closed"`, `"`+name+`"`, info.UUID, uuid.NewString()).Replace(string(record))
		if err := os.WriteFile(filepath.Join(n.Paths.VolumeDir(name), "record.json"), []byte(other), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	m := n.Manager()
	b.Run("list", func(b *testing.B) {
		for b.Loop() {
			if infos, err := m.List(b.Context()); err != nil || len(infos) != 1000 {
				b.Fatal(len(infos), err)
			}
		}
	})
	b.Run("inspect", func(b *testing.B) {
		for b.Loop() {
			if _, err := m.Inspect(b.Context(), "v5"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("unsettled", func(b *testing.B) {
		for b.Loop() {
			if names, err := m.Unsettled(b.Context()); err != nil || len(names) > 0 {
				b.Fatal(names, err)
			}
		}
	})
}
