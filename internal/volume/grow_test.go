// SPDX-License-Identifier: Apache-2.0

package volume_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/backing"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/volume/volumetest"
)

const grown = 96 << 20

// growing is a volume of 64 MiB on some backing, and what it takes to grow it.
type growing struct {
	name    string
	options []string
	mounted bool
	size    int64 // what to ask for
}

func growings() []growing {
	var all []growing
	for _, mounted := range []bool{true, false} {
		all = append(all,
			growing{"image", []string{"size=64M"}, mounted, grown},
			growing{"lvm", onLVM, mounted, grown}, growing{"device", onDevice, mounted, 0})
	}
	return all
}

func (g growing) String() string { return fmt.Sprintf("%s, mounted=%t", g.name, g.mounted) }

func (g growing) setup(t *testing.T) *volumetest.Node {
	n := diskNode(t)
	start := disk
	start.Size = 64<<20 + backing.HeaderSize
	n.Plug(diskName, start, nil)
	create(t, n, "db", g.options...)
	n.Put(mount(t, n, "db", docker("a")), "canary", canary)
	if !g.mounted {
		if err := n.Manager().Unmount(t.Context(), "db", "a"); err != nil {
			t.Fatal(err)
		}
	}
	n.Enlarge(diskName, grown+backing.HeaderSize)
	return n
}

// check looks whether the volume is whole, and the file system has exactly what was asked for (F8 F44).
func (g growing) check(t *testing.T, n *volumetest.Node) {
	t.Helper()
	info, err := n.Manager().Inspect(t.Context(), "db")
	if err != nil || info.Size != grown || len(info.Warnings) > 0 || (info.State == volume.StateMounted) != g.mounted {
		t.Errorf("got %+v, %v", info, err)
	}
	n.Reboot()
	path := mount(t, n, "db", docker("check"))
	if got := n.Get(path, "canary"); got != canary {
		t.Errorf("read %q", got)
	}
	info, err = n.Manager().Inspect(t.Context(), "db")
	if err != nil || *info.Used+*info.Avail != grown {
		t.Errorf("the file system has %d bytes, %v", *info.Used+*info.Avail, err)
	}
	if err := n.Manager().Unmount(t.Context(), "db", "check"); err != nil {
		t.Error(err)
	}
	clean(t, n)
}

func TestGrow(t *testing.T) {
	for _, g := range growings() {
		t.Run(g.String(), func(t *testing.T) {
			n := g.setup(t)
			for range 2 {
				info, err := n.Manager().Grow(t.Context(), "db", g.size)
				if err != nil || info.Size != grown {
					t.Errorf("got %+v, %v", info, err)
				}
			}
			g.check(t, n)
		})
	}
}

// F44: killed after each of its writes, alone or with the machine. The volume opens as it is, and the same Grow again completes it.
func TestGrowKilledAtEachWrite(t *testing.T) {
	for _, g := range growings() {
		for _, reboot := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, reboot=%t", g, reboot), func(t *testing.T) {
				for k := 1; ; k++ {
					n := g.setup(t)
					p := n.Process()
					p.KillAt(k)
					_, err := n.ManagerOf(p).Grow(t.Context(), "db", g.size)
					if !p.Dead() {
						if err != nil || k < 6 {
							t.Errorf("%d writes, %v", k-1, err)
						}
						return
					}
					if reboot {
						n.Reboot()
					}
					if k%3 > 0 { // the agent comes back first, or the user is faster
						if err := n.Manager().Reconcile(t.Context()); err != nil {
							t.Errorf("reconcile: %v", err)
						}
					}
					if k%2 == 0 { // somebody uses it before it is repeated
						if got := n.Get(mount(t, n, "db", docker("a")), "canary"); got != canary {
							t.Errorf("read %q", got)
						}
						if !g.mounted {
							n.Manager().Unmount(t.Context(), "db", "a")
						}
					} else if g.mounted {
						mount(t, n, "db", docker("a"))
					}
					if _, err := n.Manager().Grow(t.Context(), "db", g.size); err != nil {
						t.Errorf("again: %v", err)
					}
					g.check(t, n)
					if t.Failed() {
						t.Fatalf("killed after write %d:\n%s", k, strings.Join(n.Log(), "\n"))
					}
				}
			})
		}
	}
}

// Each write fails: nothing stays open that was not, the status says what to do, and the same again completes it (F13).
func TestGrowFailsAtEachWrite(t *testing.T) {
	for _, g := range growings() {
		t.Run(g.String(), func(t *testing.T) {
			for k := 1; ; k++ {
				n := g.setup(t)
				p := n.Process()
				p.FailAt(k, errors.New("broken"))
				before := n.Tables()
				_, err := n.ManagerOf(p).Grow(t.Context(), "db", g.size)
				if p.Steps() < k {
					return
				}
				if after := n.Tables(); err != nil && len(after) > len(before) {
					if err := n.Manager().Settle(t.Context(), "db"); err != nil { // what could not be undone either
						t.Error(err)
					}
				}
				if _, err := n.Manager().Grow(t.Context(), "db", g.size); err != nil {
					t.Errorf("again: %v", err)
				}
				g.check(t, n)
				if t.Failed() {
					t.Fatalf("write %d, %v:\n%s", k, err, strings.Join(n.Log(), "\n"))
				}
			}
		})
	}
}

// F8: never smaller; and what cannot be done changes nothing.
func TestGrowRefuses(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db", "size=64M")
	unchanged := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("got %v", err)
		}
		if info, err := n.Manager().Inspect(t.Context(), "db"); err != nil || info.Size != 64<<20 || len(info.Warnings) > 0 {
			t.Errorf("got %+v, %v", info, err)
		}
		clean(t, n)
	}
	grow := func(size int64) error { _, err := n.Manager().Grow(t.Context(), "db", size); return err }
	unchanged(grow(63<<20), volume.ErrInvalid)
	unchanged(grow(-1), volume.ErrInvalid)
	create(t, n, "cow", "size=128M", "fs=btrfs")
	if _, err := n.Manager().Grow(t.Context(), "cow", 200<<20); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "256M or more") {
		t.Errorf("what the kernel refuses of a btrfs: %v", err)
	}
	n.Fill(20 << 20)
	unchanged(grow(grown), volume.ErrNoSpace)
	n.Fill(1 << 40)
	n.Provider.Fail(kek.ErrUnavailable)
	unchanged(grow(grown), volume.ErrLocked)
	n.Provider.Fail(nil)
	p := n.Process()
	p.KillAt(2) // the record says what is begun, and the backing is larger
	n.ManagerOf(p).Grow(t.Context(), "db", grown)
	if err := grow(80 << 20); !errors.Is(err, volume.ErrInvalid) || !strings.Contains(err.Error(), "repeat that first") {
		t.Errorf("less than what was begun: %v", err)
	}
	if info, err := n.Manager().Inspect(t.Context(), "db"); err != nil || !strings.Contains(fmt.Sprint(info.Warnings), "voluks volume grow db 96M") {
		t.Errorf("got %+v, %v", info, err)
	}
}

// Compose goes on asking for the size that its file has, and a file that was brought up to date is right too (F10).
func TestCreateAgainAfterGrow(t *testing.T) {
	n := volumetest.NewNode(t)
	create(t, n, "db", "size=64M")
	for _, size := range []int64{80 << 20, grown} {
		if _, err := n.Manager().Grow(t.Context(), "db", size); err != nil {
			t.Fatal(err)
		}
	}
	for size, want := range map[string]error{"64M": nil, "96M": nil, "80M": volume.ErrExists, "128M": volume.ErrExists} {
		if _, made, err := n.Manager().Create(t.Context(), spec(t, n, "db", "size="+size)); made || !errors.Is(err, want) {
			t.Errorf("%s: made %t, %v", size, made, err)
		}
	}
}
