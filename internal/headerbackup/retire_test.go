// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func twoPlaces(t testing.TB) *node {
	n := newNode(t)
	o := n.o
	o.Second = t.TempDir()
	n.use(o)
	return n
}

// backupsIn lists the files below a root that could be backups or parts of them.
func backupsIn(t testing.TB, root string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(root, testUUID))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	must(t, err)
	var names []string
	for _, e := range entries {
		if e.Name() != ledgerFile {
			names = append(names, e.Name())
		}
	}
	return names
}

// F36: after a rotation the old header and the old key have nowhere to meet.
func TestRetire(t *testing.T) {
	n, v := twoPlaces(t), newVolume(t, testUUID)
	old := take(t, n, v)
	var links []string
	for i, c := range old.Copies {
		content, err := os.ReadFile(c.Path)
		must(t, err)
		link := filepath.Join(filepath.Dir(filepath.Dir(c.Path)), "link")
		must(t, os.Link(c.Path, link))
		links = append(links, link)
		if i == 1 && len(content) == 0 {
			t.Fatal("the second copy is empty")
		}
	}
	before, err := os.ReadFile(links[0])
	must(t, err)
	v.rotate(t, 31, 29)
	b := take(t, n, v)
	r, err := n.Retire(testUUID, b.Name.String())
	must(t, err)
	if !r.Complete() || len(r.Destroyed) != 2 || r.Kept != b.Name.String() {
		t.Errorf("report %+v", r)
	}
	for _, root := range []string{n.o.Dir, n.o.Second} {
		if left := backupsIn(t, root); len(left) != 1 || left[0] != b.Name.String() {
			t.Errorf("%s has %v", root, left)
		}
	}
	for _, link := range links {
		after, err := os.ReadFile(link)
		must(t, err)
		if len(after) != len(before) || bytes.Contains(after, before[100:164]) || bytes.Contains(after, before[len(before)-64:]) {
			t.Errorf("%s was removed without being overwritten", link)
		}
	}
	for _, g := range r.Destroyed {
		if g.How != OverwrittenInPlace && g.How != LogicalOnly || g.Why != "" || g.When.IsZero() {
			t.Errorf("destroyed: %+v", g)
		}
	}
	// Once more there is nothing to do, and nothing is written.
	again, err := n.Retire(testUUID, b.Name.String())
	if err != nil || len(again.Destroyed) != 0 || !again.Complete() {
		t.Errorf("%+v: %v", again, err)
	}
}

// Nothing old is destroyed for something new that is not there or not good.
func TestRetireNeedsTheNew(t *testing.T) {
	n, v := newNode(t), newVolume(t, testUUID)
	old := take(t, n, v)
	v.rotate(t, 31, 29)
	b := take(t, n, v)
	good, err := os.ReadFile(b.Copies[0].Path)
	must(t, err)
	must(t, os.WriteFile(b.Copies[0].Path, good[:len(good)-1], 0o600))
	_, err = n.Retire(testUUID, b.Name.String())
	wantError(t, err, ErrDamaged)
	must(t, os.Remove(b.Copies[0].Path))
	_, err = n.Retire(testUUID, b.Name.String())
	wantError(t, err, ErrNone)
	must(t, old.Copies[0].Verify())
}

// The second directory is not mounted when the old backups are destroyed: the loss is not claimed, remembered, and made good later.
func TestUnreachable(t *testing.T) {
	n, v := twoPlaces(t), newVolume(t, testUUID)
	old := take(t, n, v)
	away := n.o.Second + "-away"
	must(t, os.Rename(n.o.Second, away))
	for name, there := range map[string]func(){
		"not there":      func() {},
		"not mounted":    func() { must(t, os.MkdirAll(n.o.Second, 0o700)) },
		"another medium": func() { must(t, os.WriteFile(filepath.Join(n.o.Second, markFile), []byte("X\n"), 0o600)) },
	} {
		must(t, os.RemoveAll(n.o.Second))
		if name == "another medium" {
			must(t, os.MkdirAll(n.o.Second, 0o700))
		}
		there()
		last := lowest(v)
		v.rotate(t, last, min(last, 30)-1)
		b, err := n.Take(v.open(), testUUID)
		var second *SecondError
		if !errors.As(err, &second) || !errors.Is(err, ErrPlace) || b == nil || len(b.Copies) != 1 {
			t.Fatalf("%s: %+v, error %v", name, b, err)
		}
		r, err := n.Retire(testUUID, b.Name.String())
		must(t, err)
		if r.Complete() || len(r.Unreached) != 1 || r.Unreached[0].Name != old.Name.String() || r.Unreached[0].Why == "" {
			t.Errorf("%s: report %+v", name, r)
		}
		left, err := n.Unreached(testUUID, b.Name.String())
		if err != nil || len(left) != 1 || !strings.HasSuffix(left[0], old.Name.String()) {
			t.Errorf("%s: remembered %v, %v", name, left, err)
		}
		list, err := n.List(testUUID)
		if err != nil || len(list) != 2 || list[0].Name != old.Name || list[0].Copies[0].Err == nil {
			t.Errorf("%s: list %+v, %v", name, list, err)
		}
		if _, err := os.Stat(filepath.Join(n.o.Second, testUUID)); err == nil {
			t.Errorf("%s: it was written to", name)
		}
	}
	must(t, os.RemoveAll(n.o.Second))
	must(t, os.Rename(away, n.o.Second))
	b := take(t, n, v)
	r, err := n.Retire(testUUID, b.Name.String())
	must(t, err)
	if !r.Complete() {
		t.Errorf("report %+v", r)
	}
	if left := backupsIn(t, n.o.Second); len(left) != 1 || left[0] != b.Name.String() {
		t.Errorf("the second directory has %v", left)
	}
	if left, err := n.Unreached(testUUID, b.Name.String()); err != nil || len(left) != 0 {
		t.Errorf("remembered %v, %v", left, err)
	}
}

// lowest is the number of the slot that was rotated last, if each rotation takes the next lower one that is not 30.
func lowest(v *volume) int {
	slot := 31
	for s := range v.keys {
		if s != 30 {
			slot = min(slot, s)
		}
	}
	return slot
}

// A directory that the configuration no longer names, and copies that State no longer knows.
func TestMovedAndForgotten(t *testing.T) {
	n, v := twoPlaces(t), newVolume(t, testUUID)
	take(t, n, v)
	first := n.o.Second
	o := n.o
	o.Second = t.TempDir()
	n.use(o)
	b := take(t, n, v)
	r, err := n.Retire(testUUID, b.Name.String())
	must(t, err)
	if left := backupsIn(t, first); !r.Complete() || len(left) != 0 {
		t.Errorf("the former directory has %v, report %+v", left, r)
	}

	must(t, os.RemoveAll(filepath.Join(n.o.Dir, testUUID)))
	b = take(t, n, v)
	if r, err = n.Retire(testUUID, b.Name.String()); err != nil || !r.Complete() {
		t.Fatalf("%+v: %v", r, err)
	}
	if left := backupsIn(t, n.o.Second); len(left) != 1 || left[0] != b.Name.String() {
		t.Errorf("the second directory has %v", left)
	}
}

// Erasing a volume destroys all, and leaves no directory.
func TestRetireAll(t *testing.T) {
	n, v := twoPlaces(t), newVolume(t, testUUID)
	take(t, n, v)
	b := take(t, n, v)
	for _, c := range b.Copies {
		must(t, os.WriteFile(filepath.Join(filepath.Dir(c.Path), "."+filepath.Base(c.Path)+"99"), []byte("half a backup"), 0o600))
	}
	r, err := n.Retire(testUUID, "")
	must(t, err)
	if !r.Complete() || len(r.Destroyed) < 4 {
		t.Errorf("report %+v", r)
	}
	for _, root := range []string{n.o.Dir, n.o.Second} {
		if _, err := os.Stat(filepath.Join(root, testUUID)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s still has a directory of the volume: %v", root, err)
		}
	}
	if r, err := n.Retire(testUUID, ""); err != nil || !r.Complete() || len(r.Destroyed) != 0 {
		t.Errorf("of a volume without backups: %+v, %v", r, err)
	}
}

// A process dies after each durable step of taking a new backup and destroying the old ones. A good backup is in State at every moment, and the next run leaves one
// in each place and nothing else.
func TestKillAtEveryStep(t *testing.T) {
	type killed struct{}
	for kill := 1; ; kill++ {
		n, v := twoPlaces(t), newVolume(t, testUUID)
		take(t, n, v)
		take(t, n, v)
		v.rotate(t, 31, 29)
		rotation := func() {
			b := take(t, n, v)
			r, err := n.Retire(testUUID, b.Name.String())
			if err != nil || !r.Complete() {
				t.Fatalf("%+v: %v", r, err)
			}
		}
		o, steps := n.o, 0
		var last string
		o.Crash = func(point string) {
			if steps++; steps == kill {
				last = point
				panic(killed{})
			}
		}
		n.use(o)
		died := func() (died bool) {
			defer func() {
				if r := recover(); r != nil {
					_, died = r.(killed)
					if !died {
						panic(r)
					}
				}
			}()
			rotation()
			return false
		}()
		o.Crash = nil
		n.use(o)
		// What the file system can have besides: a temporary file of a write that was under way.
		for _, root := range []string{n.o.Dir, n.o.Second} {
			name := Name{Taken: n.o.Now(), Digest: "0123456789abcdef"}.String()
			must(t, os.WriteFile(filepath.Join(root, testUUID, "."+name+"123456"), []byte("half a backup"), 0o600))
		}
		list, err := n.List(testUUID)
		must(t, err)
		good := 0
		for _, b := range list {
			for _, c := range b.Copies {
				if strings.HasPrefix(c.Path, n.o.Dir) && c.Verify() == nil {
					good++
				}
			}
		}
		if good == 0 {
			t.Fatalf("killed at step %d (%s): no good backup is left", kill, last)
		}
		rotation()
		for _, root := range []string{n.o.Dir, n.o.Second} {
			if left := backupsIn(t, root); len(left) != 1 {
				t.Errorf("killed at step %d (%s): %s has %v in the end", kill, last, root, left)
			}
		}
		dir, err := folder(n.o.Dir, testUUID)
		must(t, err)
		l, err := readLedger(dir)
		if err != nil || len(l.Copies) != 1 {
			t.Errorf("killed at step %d (%s): the ledger has %+v, %v", kill, last, l.Copies, err)
		}
		if !died {
			if kill < 8 {
				t.Errorf("only %d steps", kill-1)
			}
			return
		}
	}
}

func TestLedgerOfTheFuture(t *testing.T) {
	n, v := twoPlaces(t), newVolume(t, testUUID)
	b := take(t, n, v)
	path := filepath.Join(n.o.Dir, testUUID, ledgerFile)
	for _, content := range []string{`{"v":2}`, `{"v":1,"copies":[{"name":"../../x","dir":"/","id":"y"}]}`, `nonsense`} {
		must(t, os.WriteFile(path, []byte(content), 0o600))
		if _, err := n.Retire(testUUID, b.Name.String()); err == nil {
			t.Errorf("%s was accepted", content)
		}
		// It does not keep a backup from being taken, which is then in State alone.
		nb, err := n.Take(v.open(), testUUID)
		var second *SecondError
		if nb == nil || !errors.As(err, &second) {
			t.Errorf("%s: %v", content, err)
		}
		if got, _ := os.ReadFile(path); string(got) != content {
			t.Errorf("%s was overwritten", content)
		}
	}
}

func TestNames(t *testing.T) {
	n, v := newNode(t), newVolume(t, testUUID)
	b := take(t, n, v)
	got, ok := ParseName(b.Name.String())
	if !ok || got.Generation != b.Name.Generation || got.Epoch != b.Name.Epoch || got.Digest != b.Name.Digest || got.String() != b.Name.String() {
		t.Errorf("%s is read as %+v", b.Name, got)
	}
	for _, s := range []string{"", "copies.json", b.Name.String() + "x", "." + b.Name.String(), strings.Replace(b.Name.String(), "g0", "g-", 1),
		strings.Replace(b.Name.String(), "20260102", "20261302", 1), strings.Replace(b.Name.String(), "-e", "-e0", 1), "g99999999999999999999-e1-20260102T030405Z-0123456789abcdef" + suffix} {
		if n, ok := ParseName(s); ok {
			t.Errorf("%q is taken for a backup: %+v", s, n)
		}
	}
}
