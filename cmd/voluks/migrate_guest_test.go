// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/voluks/voluks/dockerplugin"
	"github.com/voluks/voluks/internal/testenv"
)

// fakeEngine is a Docker that has one plain volume.
type fakeEngine struct {
	mu         sync.Mutex
	name, data string // of the volume; no name: there is none
	running    bool   // a container has it
	refuses    bool   // to forget it
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
	volume := map[string]any{"Name": f.name, "Driver": "local", "Mountpoint": f.data}
	var answer any
	switch {
	case r.URL.Path == "/containers/json":
		answer = container
	case r.URL.Path == "/volumes":
		answer = map[string]any{"Volumes": []any{}}
	case f.name == "" || r.URL.Path != "/volumes/"+f.name:
		http.Error(w, `{"message":"no such volume"}`, http.StatusNotFound)
		return
	case r.Method == http.MethodDelete:
		if f.running || f.refuses {
			http.Error(w, `{"message":"volume is in use"}`, http.StatusConflict)
			return
		}
		os.RemoveAll(filepath.Dir(f.data))
		f.name = ""
		w.WriteHeader(http.StatusNoContent)
		return
	default:
		answer = volume
	}
	json.NewEncoder(w).Encode(answer)
}

// A plain volume of Docker becomes an encrypted one of the same name: first while it is used, then the rest, then the name. What another container finds
// under it is what a Compose file with no more than "driver: voluks" creates. F9 F47
func TestGuestMigrate(t *testing.T) {
	n := guestNode(t)
	f := &fakeEngine{name: "shop_pgdata", data: filepath.Join(n.root, "docker/volumes/shop_pgdata/_data"), running: true}
	if err := os.MkdirAll(f.data, 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(n.root, dockerplugin.EngineSocket)
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: f}}
	server.Start()
	defer server.Close()
	aside := filepath.Join(n.root, "docker/voluks-plain/shop_pgdata")
	migrated := func(volume, name, want string) {
		t.Helper()
		path := strings.TrimSpace(n.run("volume", "mount", volume))
		if b, err := os.ReadFile(filepath.Join(path, name)); err != nil || string(b) != want {
			t.Errorf("%s of %s: %q, %v", name, volume, b, err)
		}
		n.run("volume", "umount", volume)
	}
	write := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(f.data, name), []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	write("base", strings.Repeat("a table of a database. ", 100_000))
	write("PG_VERSION", "17\n")
	if err := os.Chown(f.data, 70, 70); err != nil {
		t.Fatal(err)
	}

	n.wants("no such volume", n.fails(exitFailure, "volume", "migrate", "other"), "no such volume in Docker")
	n.wants("in use", n.fails(exitInUse, "volume", "migrate", "shop_pgdata"), "shop-db-1", "--live")
	n.wants("live", n.run("volume", "migrate", "--live", "--size", "48M", "shop_pgdata"), "copied 2 of 3 files", "not verified yet", "voluks volume migrate shop_pgdata")
	write("wal", "written meanwhile")
	open, err := os.Open(filepath.Join(f.data, "base")) // a process that Docker knows nothing of
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.running = false
	f.mu.Unlock()
	n.wants("open file", n.fails(exitInUse, "volume", "migrate", "--swap", "shop_pgdata"), "in use by process")
	open.Close()

	// A kill after the data was set aside: the same command finds it there. And Docker that cannot be told leaves all as it was.
	if err := errors.Join(os.MkdirAll(filepath.Dir(aside), 0o700), os.Rename(f.data, aside)); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.refuses = true
	f.mu.Unlock()
	n.wants("a Docker that refuses", n.fails(exitFailure, "volume", "migrate", "--swap", "shop_pgdata"), "make Docker forget")
	if _, err := os.Lstat(filepath.Join(f.data, "wal")); err != nil {
		t.Errorf("the plain data is not back: %v", err)
	}
	f.mu.Lock()
	f.refuses = false
	f.mu.Unlock()
	if err := os.Rename(f.data, aside); err != nil {
		t.Fatal(err)
	}
	out := n.run("volume", "migrate", "--swap", "shop_pgdata")
	n.wants("swap", out, "copied 0 of 4 files", "verified: all 4 files", "driver: voluks", "plain data is still at ")
	if f.name != "" {
		t.Error("Docker has its plain volume still")
	}
	if b, err := os.ReadFile(filepath.Join(aside, "wal")); err != nil || string(b) != "written meanwhile" {
		t.Errorf("the plain data: %q, %v", b, err)
	}
	n.wants("compose", n.run("volume", "create", "shop_pgdata"), "is there already, with these options")
	migrated("shop_pgdata", "wal", "written meanwhile")
	n.wants("nothing left to swap", n.fails(exitFailure, "volume", "migrate", "--swap", "shop_pgdata"), "no such volume in Docker")
	n.wants("retired later", n.run("volume", "migrate", "--swap", "--retire-source", "--force", "shop_pgdata"), "no plain volume shop_pgdata any more")
	if _, err := os.Lstat(aside); !os.IsNotExist(err) {
		t.Errorf("the plain data: %v", err)
	}

	// A directory; a volume with data of others is not touched; the source goes when that is asked for.
	dir := filepath.Join(n.root, "uploads")
	if err := os.MkdirAll(filepath.Join(dir, "a"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a/file"), []byte("uploaded"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.wants("others' data", n.fails(exitInUse, "volume", "migrate", dir, "shop_pgdata"), "no migration from there")
	n.wants("not asked", n.fails(exitRefused, "volume", "migrate", "--retire-source", dir, "uploads"), "no terminal")
	n.wants("retire", n.run("volume", "migrate", "--size", "32M", "--retire-source", "--force", dir, "uploads"), "verified: all 3 files")
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the source: %v", err)
	}
	migrated("uploads", "a/file", "uploaded")

	// What somebody writes into the volume afterwards is not lost to one more pass; half of a source that was being removed is no source.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := strings.TrimSpace(n.run("volume", "mount", "uploads"))
	if err := os.WriteFile(filepath.Join(path, "a/new"), []byte("in the encrypted volume"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.wants("held", n.fails(exitInUse, "volume", "migrate", dir, "uploads"), "umount --holder cli uploads")
	n.run("volume", "umount", "uploads")
	n.wants("written since", n.fails(exitInUse, "volume", "migrate", dir, "uploads"), "/a has been written since", "--overwrite")
	migrated("uploads", "a/new", "in the encrypted volume")
	if err := os.Rename(dir, dir+".voluks-plain"); err != nil {
		t.Fatal(err)
	}
	n.wants("half a source", n.fails(exitUsage, "volume", "migrate", "--overwrite", dir, "uploads"), "what is left of plain data that was being removed")
	migrated("uploads", "a/new", "in the encrypted volume")
	n.wants("the rest", n.run("volume", "migrate", "--retire-source", "--force", dir, "uploads"))
	if _, err := os.Lstat(dir + ".voluks-plain"); !os.IsNotExist(err) {
		t.Errorf("the rest of the source: %v", err)
	}
	migrated("uploads", "a/new", "in the encrypted volume")

	// A device with a file system, which has a lost+found of its own; while it is mounted it is refused.
	disk := testenv.Disk(t, 0, 16<<20)
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", disk).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	on := t.TempDir()
	if err := syscall.Mount(disk, on, "ext4", 0, ""); err != nil {
		t.Fatal(err)
	}
	write2 := os.WriteFile(filepath.Join(on, "on-disk"), []byte("of a disk"), 0o640)
	n.wants("mounted", n.fails(exitInUse, "volume", "migrate", disk, "fromdisk"), "is in use")
	if err := errors.Join(write2, syscall.Unmount(on, 0)); err != nil {
		t.Fatal(err)
	}
	n.wants("device", n.run("volume", "migrate", "--size", "32M", disk, "fromdisk"), "verified: all 2 files", "still at "+disk)
	migrated("fromdisk", "on-disk", "of a disk")
	if info := n.inspect("uploads"); len(info.Holders) > 0 {
		t.Errorf("left mounted: %+v", info)
	}
}
