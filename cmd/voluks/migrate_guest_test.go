// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/voluks/voluks/dockerplugin"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
)

// fakeEngine is a Docker that has one plain volume.
type fakeEngine struct {
	mu         sync.Mutex
	name, data string // of the volume; no name: there is none
	running    bool   // a container has it
	refuses    bool   // to forget it
	hangsUp    bool   // instead of an answer to that
	forgets    bool   // though it hangs up
}

func (f *fakeEngine) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	container := []map[string]any{}
	if f.running {
		container = append(container, map[string]any{
			"Id": "0123456789abcdef", "Names": []string{"/shop-db-1"}, "State": "running",
			"Mounts": []map[string]string{{"Type": "volume", "Name": f.name, "Driver": "local", "Destination": "/data"}},
		})
	}
	var answer any
	switch {
	case r.URL.Path == "/containers/json":
		answer = container
	case r.URL.Path == "/volumes":
		answer = map[string]any{"Volumes": []any{}}
	case f.name == "" && strings.HasSuffix(r.URL.Path, "/shop_pgdata"):
		answer = map[string]any{"Name": "shop_pgdata", "Driver": "voluks"} // Docker asks us
	case f.name == "" || r.URL.Path != "/volumes/"+f.name:
		http.Error(w, `{"message":"no such volume"}`, http.StatusNotFound)
		return
	case r.Method == http.MethodDelete && (f.running || f.refuses):
		http.Error(w, `{"message":"volume is in use"}`, http.StatusConflict)
		return
	case r.Method == http.MethodDelete:
		if !f.hangsUp || f.forgets {
			os.RemoveAll(filepath.Dir(f.data))
			f.name = ""
		}
		if f.hangsUp {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(http.StatusNoContent)
		return
	default:
		answer = map[string]any{"Name": f.name, "Driver": "local", "Mountpoint": f.data}
	}
	json.NewEncoder(w).Encode(answer)
}

func (n *node) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) write(path, content string) {
	n.t.Helper()
	n.must(errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o640)))
}

// holds says whether a file has that content.
func (n *node) holds(path, want string) {
	n.t.Helper()
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		n.t.Errorf("%s: %q, %v", path, b, err)
	}
}

func (n *node) gone(path string) {
	n.t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		n.t.Errorf("%s is there: %v", path, err)
	}
}

func (n *node) inVolume(volume string, do func(path string)) {
	n.t.Helper()
	do(strings.TrimSpace(n.run("volume", "mount", volume)))
	n.run("volume", "umount", volume)
}

// A plain volume of Docker becomes an encrypted one of the same name: first while it is used, then the rest, then the name. What another container finds
// under it is what a Compose file with no more than "driver: voluks" creates. F9 F47
func TestGuestMigrate(t *testing.T) {
	n := guestNode(t)
	f := &fakeEngine{name: "shop_pgdata", data: filepath.Join(n.root, "docker/volumes/shop_pgdata/_data"), running: true}
	socket := filepath.Join(n.root, dockerplugin.EngineSocket)
	n.must(os.MkdirAll(filepath.Dir(socket), 0o755))
	l, err := net.Listen("unix", socket)
	n.must(err)
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: f}}
	server.Start()
	defer server.Close()
	aside := filepath.Join(n.root, "docker/voluks-plain/shop_pgdata")
	write := func(name, content string) { t.Helper(); n.write(filepath.Join(f.data, name), content) }
	write("base", strings.Repeat("a table of a database. ", 100_000))
	write("PG_VERSION", "17\n")
	n.must(os.Chown(f.data, 70, 70))

	n.wants("no such volume", n.fails(exitFailure, "volume", "migrate", "other"), "no such volume in Docker")
	n.wants("in use", n.fails(exitInUse, "volume", "migrate", "shop_pgdata"), "shop-db-1", "--live")
	n.wants("live", n.run("volume", "migrate", "--live", "--size", "48M", "shop_pgdata"), "copied 2 of 3 files", "not verified yet", "voluks volume migrate shop_pgdata")

	// Half of the data is given to nobody.
	n.wants("half", n.fails(exitDamaged, "volume", "mount", "shop_pgdata"), "a migration from shop_pgdata into it has not ended", "hint: finish it: voluks volume migrate shop_pgdata shop_pgdata")

	write("wal", "written meanwhile")
	open, err := os.Open(filepath.Join(f.data, "base")) // a process that Docker knows nothing of
	n.must(err)
	f.set(func() { f.running = false })
	n.wants("open file", n.fails(exitInUse, "volume", "migrate", "--swap", "shop_pgdata"), "in use by process")
	n.must(open.Close())

	// A Docker that refuses leaves all as it was. After no answer nothing is moved back: Docker may be removing what is there. A kill after the data was set
	// aside looks the same, and the same command finds it there.
	f.set(func() { f.refuses = true })
	n.wants("a Docker that refuses", n.fails(exitFailure, "volume", "migrate", "--swap", "shop_pgdata"), "make Docker forget")
	n.holds(filepath.Join(f.data, "wal"), "written meanwhile")
	n.gone(aside)
	f.set(func() { f.refuses, f.hangsUp = false, true })
	n.wants("no answer", n.fails(exitFailure, "volume", "migrate", "--swap", "shop_pgdata"), "whether Docker has forgotten it is not known", aside)
	n.gone(f.data)
	n.holds(filepath.Join(aside, "wal"), "written meanwhile")
	n.must(os.Mkdir(f.data, 0o700)) // by somebody who started it meanwhile
	n.wants("two of them", n.fails(exitInUse, "volume", "migrate", "--swap", "shop_pgdata"), "plain data of an earlier migration", aside)
	n.must(os.Remove(f.data))
	f.set(func() { f.forgets = true })
	n.wants("forgotten without an answer", n.fails(exitFailure, "volume", "migrate", "--swap", "shop_pgdata"), "is not known")
	n.wants("swap", n.run("volume", "migrate", "--swap", "shop_pgdata"), "driver: voluks", "the plain data is still at "+aside)
	n.holds(filepath.Join(aside, "wal"), "written meanwhile")
	n.wants("compose", n.run("volume", "create", "shop_pgdata"), "is there already, with these options")

	// The volume is in use. The plain data goes later, by what it is, after everything was looked at once more.
	path := strings.TrimSpace(n.run("volume", "mount", "shop_pgdata"))
	n.holds(filepath.Join(path, "wal"), "written meanwhile")
	n.write(filepath.Join(path, "wal"), "in the encrypted volume")
	retire := []string{"volume", "migrate", "--retire-source", "--force", "shop_pgdata"}
	mounted := filepath.Join(aside, "base")
	n.must(syscall.Mount(filepath.Join(path, "wal"), mounted, "", syscall.MS_BIND, ""))
	n.wants("mounted below", n.fails(exitInUse, retire...), "something else is mounted at "+mounted)
	n.must(syscall.Unmount(mounted, 0))
	open, err = os.Open(filepath.Join(aside, "base"))
	n.must(err)
	n.wants("in use", n.fails(exitInUse, retire...), "in use by process")
	n.must(open.Close())
	n.must(os.Rename(aside, aside+".1"))
	n.write(filepath.Join(aside, "base"), "another directory")
	n.wants("another one", n.fails(exitInUse, retire...), "is not the directory that was copied")
	n.must(errors.Join(os.RemoveAll(aside), os.Rename(aside+".1", aside)))
	n.must(os.Link(filepath.Join(aside, "PG_VERSION"), aside+".2")) // changes what the kernel knows of it
	n.wants("changed", n.fails(exitInUse, retire...), "PG_VERSION has changed since")
	n.holds(filepath.Join(aside, "wal"), "written meanwhile")
	n.must(os.Remove(filepath.Join(path, "base")))
	n.write(filepath.Join(path, "PG_VERSION"), "18\n")
	n.wants("nothing left to compare", n.fails(exitInUse, retire...), "little in the volume is as it was copied")
	n.holds(filepath.Join(aside, "base"), strings.Repeat("a table of a database. ", 100_000))
	n.run("volume", "umount", "shop_pgdata")
}

// A directory; whatever is wrong with it or with the volume, neither the only copy nor anything of the host is lost.
func TestGuestMigrateDirectory(t *testing.T) {
	n := guestNode(t)
	dir, link := filepath.Join(n.root, "srv/uploads"), filepath.Join(n.root, "uploads-link")
	for _, name := range []string{"a/1", "a/2", "b/3", "b/4"} {
		n.write(filepath.Join(dir, name), "uploaded "+name)
	}
	n.must(os.Symlink(dir, link))
	migrate := func(flags ...string) []string {
		return append(append([]string{"volume", "migrate"}, flags...), link, "uploads")
	}
	n.wants("not asked", n.fails(exitRefused, migrate("--retire-source")...), "no terminal")
	n.wants("a link", n.run(migrate("--live", "--size", "32M")...), "from "+dir+" into uploads")

	// A source that is another one by now, since its disk is not mounted or somebody made it anew; or that has lost its content.
	n.must(errors.Join(os.Rename(dir, dir+".disk"), os.Mkdir(dir, 0o755)))
	n.wants("another source", n.fails(exitInUse, migrate()...), "is not the source of the earlier passes", "--overwrite")
	n.must(errors.Join(os.Remove(dir), os.Rename(dir+".disk", dir)))
	n.must(os.Mkdir(dir+".kept", 0o755))
	for _, name := range []string{"a", "b"} {
		n.must(os.Rename(filepath.Join(dir, name), filepath.Join(dir+".kept", name)))
	}
	n.wants("emptied", n.fails(exitInUse, migrate()...), "and had 7 and", "--overwrite")
	for _, name := range []string{"a", "b"} {
		n.must(os.Rename(filepath.Join(dir+".kept", name), filepath.Join(dir, name)))
	}
	n.wants("final", n.run(migrate()...), "copied 0 of 7 files", "verified: all 7 files")

	// What somebody plants or writes in the volume: a pass is refused, and if it is wanted follows nothing.
	host := filepath.Join(n.root, "host")
	for _, name := range []string{"1", "2"} {
		n.write(filepath.Join(host, name), "of the host")
	}
	n.inVolume("uploads", func(path string) {
		n.wants("held", n.fails(exitInUse, migrate()...), "umount --holder cli uploads")
		n.must(errors.Join(os.RemoveAll(filepath.Join(path, "a")), os.Symlink(host, filepath.Join(path, "a"))))
	})
	n.wants("written since", n.fails(exitInUse, migrate()...), "has been written since the copy was verified", "--overwrite")
	n.wants("planted", n.run(migrate("--overwrite")...), "verified: all 7 files")
	n.holds(filepath.Join(host, "1"), "of the host")
	n.holds(filepath.Join(host, "2"), "of the host")
	n.inVolume("uploads", func(path string) {
		n.holds(filepath.Join(path, "a/1"), "uploaded a/1")
		n.wants("a volume's own", n.fails(exitUsage, "volume", "migrate", "--retire-source", "--force", path, "other"), "removed with `voluks volume rm`")
	})

	// The source goes, is stopped half-way, and what is left is no source. What was never copied stays.
	n.must(os.Link(filepath.Join(dir, "a/2"), filepath.Join(n.root, "outside")))
	n.must(sys.SetImmutable(filepath.Join(dir, "b/3"), true))
	removing := dir + ".voluks-plain.removing"
	n.wants("stopped", n.fails(exitFailure, migrate("--retire-source", "--force")...), "remove the plain data", "operation not permitted")
	n.gone(dir)
	n.holds(filepath.Join(removing, "b/3"), "uploaded b/3")
	n.must(os.Mkdir(dir, 0o755))
	n.wants("half a source", n.fails(exitInUse, migrate("--overwrite")...), "what is left of it at "+removing+" is no source")
	n.must(sys.SetImmutable(filepath.Join(removing, "b/3"), false))
	n.must(errors.Join(os.Remove(dir), os.Rename(removing, dir)))
	n.wants("moved back by hand", n.fails(exitFailure, migrate("--retire-source", "--force")...), "is at "+dir+" again")
	n.holds(filepath.Join(dir, "b/3"), "uploaded b/3")
	n.must(errors.Join(os.Rename(dir, removing), os.Mkdir(dir, 0o755)))
	n.wants("another file by now", n.fails(exitInUse, migrate("--retire-source", "--force")...), "are not what was copied and verified, and stay", "b/3")
	n.must(os.Remove(filepath.Join(removing, "b/3")))
	out := n.run(migrate("--retire-source", "--force")...)
	n.wants("the rest", out, "verified once more: 4 files", "logical only", "advice: ")
	n.gone(removing)
	n.inVolume("uploads", func(path string) { n.holds(filepath.Join(path, "b/3"), "uploaded b/3") })
	n.wants("made anew", n.fails(exitInUse, migrate("--overwrite")...), "no migration has put into it")

	// All at once, a hard link outside told of; and data of others is not touched.
	other := filepath.Join(n.root, "srv/other")
	n.write(filepath.Join(other, "1"), "one")
	n.must(os.Link(filepath.Join(other, "1"), filepath.Join(n.root, "outside.1")))
	n.wants("retire", n.run("volume", "migrate", "--size", "32M", "--retire-source", "--force", other, "other"), "verified: all 2 files", "logical only", "still in clear under another name outside: 1")
	n.gone(other)
	if receipts, err := filepath.Glob(filepath.Join(n.root, "var/lib/voluks/receipts/*/*retire-source.json")); err != nil || len(receipts) != 2 {
		t.Errorf("receipts %v, %v", receipts, err)
	}

	// Somebody has emptied the volume since: the plain data is the only copy.
	gutted := filepath.Join(n.root, "srv/gutted")
	for _, name := range []string{"1", "2", "3"} {
		n.write(filepath.Join(gutted, name), name)
	}
	n.run("volume", "migrate", "--size", "32M", gutted, "gutted")
	n.inVolume("gutted", func(path string) {
		n.must(errors.Join(os.Remove(filepath.Join(path, "1")), os.Remove(filepath.Join(path, "2"))))
	})
	n.wants("gutted", n.fails(exitInUse, "volume", "migrate", "--retire-source", "--force", gutted, "gutted"), "1 files are, 0 were written since, 2 are gone")
	n.holds(filepath.Join(gutted, "1"), "1")

	n.must(os.MkdirAll(filepath.Join(other, "x"), 0o755))
	n.wants("others' data", n.fails(exitInUse, "volume", "migrate", dir, "other"), "no migration has put into it")
	n.wants("a device", n.fails(exitUsage, "volume", "migrate", testenv.Disk(t, 0, 1), "other"), "mount its file system read-only")
	if info := n.inspect("uploads"); len(info.Holders) > 0 || info.Migrating != nil {
		t.Errorf("left: %+v", info)
	}
}

// A kill between any two writes of a migration with --retire-source: until all of the data is in the volume nobody gets it, the plain data goes only then, and
// the same command ends what was begun. VOLUKS_POWER_CUTS says how many of the points, drawn by lot.
func TestGuestMigrateKilled(t *testing.T) {
	n := guestNode(t)
	random, seed := testenv.Random(t)
	points := []string{
		"migrate.made", "migrate.mounted", "migrate.begun", "migrate.noted", "migrate.copy", "migrate.verify", "migrate.copied", "migrate.manifest", "migrate.verified", "migrate.ended",
		"retire.noted", "retire.aside", "retire.removing", "retire.locked", "retire.emptied", "retire.gone", "retire.receipt",
	}
	random.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
	for i, point := range points[:min(len(points), testenv.PowerCuts(t, 2))] {
		name := fmt.Sprintf("killed%d", i)
		dir := filepath.Join(n.root, "plain", name)
		n.write(filepath.Join(dir, "a/1"), "one")
		n.write(filepath.Join(dir, "2"), "two")
		args := []string{"volume", "migrate", "--size", "32M", "--retire-source", "--force", dir, name}
		killed := n.command(args...)
		killed.Env = append(os.Environ(), "VOLUKS_TEST_CRASH="+point)
		if out, err := killed.CombinedOutput(); err == nil || killed.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("seed %d, %s: not killed there: %v %s", seed, point, err, out)
		}
		// Whoever gets the volume meanwhile finds all of the data in it, or the data where it was.
		path, err := n.command("volume", "mount", name).Output()
		_, plain := os.Lstat(filepath.Join(dir, "a/1"))
		if err == nil {
			b, gone := os.ReadFile(filepath.Join(strings.TrimSpace(string(path)), "a/1"))
			if string(b) != "one" && (plain != nil || !errors.Is(gone, fs.ErrNotExist)) {
				t.Errorf("seed %d, %s: %q, %v, source: %v", seed, point, b, gone, plain)
			}
			n.run("volume", "umount", name)
		}
		// Ended already: only what was known of it was left, or not even that.
		if out, err := n.command(args...).CombinedOutput(); err != nil {
			t.Errorf("seed %d, %s, again: %v %s", seed, point, err, out)
		}
		for _, path := range []string{dir, dir + ".voluks-plain", dir + ".voluks-plain.removing"} {
			n.gone(path)
		}
		n.inVolume(name, func(path string) {
			n.holds(filepath.Join(path, "a/1"), "one")
			n.holds(filepath.Join(path, "2"), "two")
		})
		n.run("volume", "rm", "--force", name)
		n.run("volume", "erase", "--force", name)
	}
}
