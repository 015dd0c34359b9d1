// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/voluks/voluks/internal/copytree"
)

// A tree of files into a mounted volume, against cp -a and the same flush; and the same with reading all of it back.
func TestMigrate(t *testing.T) {
	n := newNode(t)
	n.call(t, "Create", `{"Name":"to","Opts":{"size":"320M"}}`)
	n.call(t, "Mount", `{"Name":"to","ID":"1"}`)
	defer n.call(t, "Unmount", `{"Name":"to","ID":"1"}`)
	data := filepath.Join(n.mountpoint("to"), "data")
	src := filepath.Join(n.dir, "tree")
	random := rand.New(rand.NewPCG(1, 2))
	content := make([]byte, 512<<10)
	for i := range content {
		content[i] = byte(random.Uint32())
	}
	for i := range 400 {
		dir := filepath.Join(src, fmt.Sprint(i%20))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), content[:1+random.IntN(len(content))], 0o640); err != nil {
			t.Fatal(err)
		}
	}
	to := func(name string) string { return filepath.Join(data, name) }
	from, err := copytree.Open(src)
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	ours := func(name string, verify bool) func() {
		return func() {
			if err := os.Mkdir(to(name), 0o700); err != nil {
				t.Fatal(err)
			}
			into, err := copytree.Open(to(name))
			if err != nil {
				t.Fatal(err)
			}
			defer into.Close()
			size, err := from.Measure(context.Background()) // as the command does first
			if err != nil {
				t.Fatal(err)
			}
			m, err := copytree.Copy(context.Background(), from, into, copytree.Options{Since: size.At})
			if err == nil && verify {
				err = copytree.Verify(context.Background(), m, from, into, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	clear := func(name string) func() {
		return func() { n.run(t, "rm", "-rf", to(name)); n.run(t, "sync", "-f", data) }
	}
	took := sideBySide(3,
		pair{ours("ours", false), clear("ours")},
		pair{ours("verified", true), clear("verified")},
		pair{func() { n.run(t, "cp", "-a", src, to("theirs")); n.run(t, "sync", "-f", data) }, clear("theirs")},
	)
	report(t, "migrate a tree / cp -a of it and sync", took[0], took[2], 1.25)
	report(t, "the same with reading all of it back", took[1], took[2], 2)
}
