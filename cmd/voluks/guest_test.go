// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
)

// fails runs a command that must end with that status and returns what it said.
func (n *node) fails(status int, args ...string) string {
	n.t.Helper()
	out, err := n.command(args...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != status {
		n.t.Fatalf("voluks %s: %v, want exit status %d\n%s", strings.Join(args, " "), err, status, out)
	}
	return string(out)
}

func (n *node) inspect(name string) volume.Info {
	n.t.Helper()
	var info volume.Info
	if err := json.Unmarshal([]byte(n.run("--format", "json", "volume", "inspect", name)), &info); err != nil {
		n.t.Fatal(err)
	}
	return info
}

func (n *node) wants(where, text string, parts ...string) {
	n.t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			n.t.Errorf("%s: %q is missing in\n%s", where, part, text)
		}
	}
}

func guestNode(t *testing.T) *node {
	t.Helper()
	testenv.Guest(t)
	testenv.LeakCheck(t)
	n := newNode(t)
	t.Cleanup(func() {
		var list listResult
		out, err := n.command("--format", "json", "volume", "ls").Output()
		if err == nil {
			err = json.Unmarshal(out, &list)
		}
		if err != nil {
			t.Error(err)
		}
		for _, v := range list.Volumes {
			n.command("volume", "umount", "--force", v.Name).Run()
			if out, err := n.command("volume", "rm", "--force", v.Name).CombinedOutput(); err != nil {
				t.Errorf("remove %s: %v\n%s", v.Name, err, out)
			}
		}
	})
	return n
}

// A volume's life on the command line, and what a person reads of it.
func TestLife(t *testing.T) {
	n := guestNode(t)
	n.wants("create", n.run("volume", "create", "db", "--size", "32M"), "created db: 32 MiB, ext4, aes-xts-plain64")
	n.wants("create again", n.run("volume", "create", "db", "--size", "32M"), "db is there already")
	n.wants("create differently", n.fails(exitExists, "volume", "create", "db", "--size", "64M"), "size is 32M, not 64M", "hint: voluks volume inspect db")
	n.wants("ls", n.run("volume", "ls"), "NAME  STATE  SIZE", "db    ready  32 MiB")
	n.wants("keyslot ls", n.run("keyslot", "ls", "db"), "SLOT  ROLE", "31    agent     1           file:", "30    recovery  1           age:")

	path := strings.TrimSpace(n.run("volume", "mount", "db"))
	if err := os.WriteFile(filepath.Join(path, "x"), []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again := strings.TrimSpace(n.run("volume", "mount", "db", "--holder", "backup")); again != path {
		t.Errorf("mounted twice: %s and %s", path, again)
	}
	n.wants("inspect", n.run("volume", "inspect", "db"), "State        mounted", "Path         "+path, `Holders      cli "cli", by `, `cli "backup"`, "30: recovery")
	n.wants("rm", n.fails(exitInUse, "volume", "rm", "--force", "db"), `held by cli "cli"`, "hint: voluks volume umount --holder backup db")
	n.wants("umount", n.run("volume", "umount", "db"), "released db; it stays mounted for:", `cli "backup"`)
	n.wants("umount", n.run("volume", "umount", "db", "--holder", "backup"), "unmounted db")
	n.wants("umount again", n.run("volume", "umount", "db"), "unmounted db")
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the data is still there: %v", err)
	}
	n.run("volume", "mount", "db")
	if b, err := os.ReadFile(filepath.Join(path, "x")); string(b) != "kept" {
		t.Errorf("the data is gone: %q, %v", b, err)
	}
	n.run("volume", "umount", "db")
	n.wants("rm without a terminal", n.fails(exitRefused, "volume", "rm", "db"), "no terminal", "hint: to do it without being asked: voluks volume rm --force db")
	n.wants("rm", n.run("volume", "rm", "--force", "db"), "removed db; until ", "`voluks volume undelete db` brings it back")
	n.wants("rm again", n.fails(exitNotFound, "volume", "rm", "--force", "db"), "no such volume")
}

// Somebody is in the volume: it is released, stays open, and who it is is said.
func TestUmountBusy(t *testing.T) {
	n := guestNode(t)
	n.run("volume", "create", "db", "--size", "32M")
	path := strings.TrimSpace(n.run("volume", "mount", "db"))
	f, err := os.Create(filepath.Join(path, "open"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	said := n.fails(exitInUse, "volume", "umount", "db")
	n.wants("umount", said, "cannot be closed yet", "hint: ")
	if info := n.inspect("db"); info.State != volume.StateClosing || len(info.Holders) != 0 {
		t.Errorf("got %s with %v", info.State, info.Holders)
	}
	n.wants("ls", n.run("volume", "ls"), "warning: db is closing")
	f.Close()
	n.wants("umount", n.run("volume", "umount", "db"), "unmounted db")
}

// Everything a master key can be, each with its own way out; the volume opens again with the right one. F39
func TestMasterKeys(t *testing.T) {
	n := guestNode(t)
	n.run("volume", "create", "db", "--size", "32M")
	path := filepath.Join(n.root, "etc/voluks/master.key")
	right, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := []byte("\x01\x82another master key of 32 b\xff\xfe\xfd\xfc")
	for _, test := range []struct {
		name   string
		key    []byte // nil: none
		mode   os.FileMode
		status int
		says   []string
	}{
		{"missing", nil, 0, exitConfig, []string{"does not exist", "hint: restore it from its backup"}},
		{"short", right[:31], 0o600, exitConfig, []string{"too short (31 bytes, expected 32)"}},
		{"long", append(append([]byte{}, right...), 7, 8), 0o600, exitConfig, []string{"too long (34 bytes"}},
		{"hex", fmt.Appendf(nil, "%x\n", right), 0o600, exitConfig, []string{"hexadecimal", "hint: convert it: (umask 077; xxd -r -p"}},
		{"open to the group", right, 0o640, exitConfig, []string{"mode 0640, expected 0600", "hint: others may have read it; if nobody can have: chmod 0600 " + path}},
		{"another", other, 0o600, exitLocked, []string{"wrapped by", "hint: see which key it wants, and whether it can be had: voluks kek ls"}},
	} {
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if test.key != nil {
			if err := errors.Join(os.WriteFile(path, test.key, test.mode), os.Chmod(path, test.mode)); err != nil {
				t.Fatal(err)
			}
		}
		n.wants(test.name, n.fails(test.status, "volume", "mount", "db"), test.says...)
		if info := n.inspect("db"); info.Mountpoint != "" || len(info.Holders) > 0 {
			t.Errorf("%s: left %+v", test.name, info)
		}
	}
	if err := os.WriteFile(path, right, 0o600); err != nil {
		t.Fatal(err)
	}
	n.run("volume", "mount", "db")
	n.run("volume", "umount", "db")
}

// The same volume through the plugin, over the end of agents: containers go on, the ids of mounts are kept. F20 F22 F24
func TestPluginLife(t *testing.T) {
	n := guestNode(t)
	a := n.serve()
	const path = `/var/lib/voluks/mnt/db/data`
	calls := func(steps ...[3]string) {
		t.Helper()
		for _, s := range steps {
			if got := n.call("VolumeDriver."+s[0], s[1]); !strings.Contains(got, s[2]) {
				t.Fatalf("%s %s: got %s, want %s", s[0], s[1], got, s[2])
			}
		}
	}
	mounted := `{"Mountpoint":"` + n.root + path + `"}`
	calls(
		[3]string{"Create", `{"Name":"db","Opts":{"size":"32M","uid":"999"}}`, `{}`},
		[3]string{"Create", `{"Name":"db","Opts":{"size":"32M","uid":"999"}}`, `{}`},
		[3]string{"Create", `{"Name":"db","Opts":{"size":"64M"}}`, `size is 32M, not 64M`},
		[3]string{"Path", `{"Name":"db"}`, `{"Mountpoint":""}`},
		[3]string{"Mount", `{"Name":"db","ID":"one"}`, mounted},
		[3]string{"Mount", `{"Name":"db","ID":"one"}`, mounted},
		[3]string{"Mount", `{"Name":"db","ID":"two"}`, mounted},
		[3]string{"Path", `{"Name":"db"}`, mounted},
		[3]string{"Get", `{"Name":"db"}`, `"holders":2`},
		[3]string{"Get", `{"Name":"db"}`, `"state":"mounted"`},
		[3]string{"List", `{}`, `"Name":"db"`},
		[3]string{"Remove", `{"Name":"db"}`, `held by docker`},
	)
	info, err := os.Stat(n.root + path)
	if err != nil {
		t.Fatal(err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 999 {
		t.Errorf("the data belongs to %d, want 999", uid)
	}
	f, err := os.Create(n.root + path + "/x") // a container that goes on
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	a.end(syscall.SIGKILL)
	if _, err := f.WriteString("after the kill"); err != nil {
		t.Errorf("the container's write failed: %v", err)
	}
	a = n.serve()
	calls(
		[3]string{"Get", `{"Name":"db"}`, `"holders":2`},
		[3]string{"Mount", `{"Name":"db","ID":"one"}`, mounted},
		[3]string{"Unmount", `{"Name":"db","ID":"two"}`, `{}`},
		[3]string{"Unmount", `{"Name":"db","ID":"unknown"}`, `{}`},
		[3]string{"Path", `{"Name":"db"}`, mounted},
	)
	n.wants("rm", n.fails(exitInUse, "volume", "rm", "--force", "db"), `held by docker "one"`, "hint: containers that have it: docker ps -a --filter volume=db")
	f.Close()
	calls(
		[3]string{"Unmount", `{"Name":"db","ID":"one"}`, `{}`},
		[3]string{"Path", `{"Name":"db"}`, `{"Mountpoint":""}`},
		[3]string{"Remove", `{"Name":"db"}`, `{}`},
		[3]string{"Get", `{"Name":"db"}`, `no such volume`},
		[3]string{"List", `{}`, `{"Volumes":[]}`},
	)
	if status, log := a.end(syscall.SIGTERM); status != "exit status 0" {
		t.Errorf("the agent ended with %s:\n%s", status, log)
	}
}

// A stop with a create on its way: it is answered, and the volume is whole.
func TestStopDuringCreate(t *testing.T) {
	n := guestNode(t)
	a := n.serve()
	answers := make(chan string)
	go func() { answers <- n.call("VolumeDriver.Create", `{"Name":"db","Opts":{"size":"32M"}}`) }()
	a.until("begins", func() bool {
		_, err := os.Stat(filepath.Join(n.root, "var/lib/voluks/volumes/db"))
		return err == nil
	})
	status, log := a.end(syscall.SIGTERM)
	if got := <-answers; got != "{}" || status != "exit status 0" {
		t.Errorf("the create got %s, the agent ended with %s:\n%s", got, status, log)
	}
	if info := n.inspect("db"); info.State != volume.StateReady {
		t.Errorf("the volume is %s", info.State)
	}
}

// DOCKER.md, plaintext by name: a local volume that shadows one of ours is named wherever a person looks.
func TestShadowIsNamed(t *testing.T) {
	n := guestNode(t)
	n.run("volume", "create", "db", "--size", "32M")
	socket := filepath.Join(n.root, "var/run/docker.sock")
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	docker := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/volumes" {
			fmt.Fprint(w, `{"Volumes":[{"Name":"db","Driver":"local"},{"Name":"plain","Driver":"local"}]}`)
			return
		}
		fmt.Fprint(w, `[{"Id":"1","Names":["/web"],"Mounts":[{"Type":"volume","Name":"plain","Driver":"local","Destination":"/srv"}]}]`)
	})}}
	docker.Start()
	shadow, local := `plaintext local volume named "db"`, `container web keeps /srv on the plaintext local volume "plain"`
	n.wants("ls", n.run("volume", "ls"), "warning: Docker has a "+shadow, "warning: "+local)
	said := n.run("volume", "inspect", "db")
	n.wants("inspect", said, shadow)
	if strings.Contains(said, "plain\"") {
		t.Errorf("inspect tells of what is not about db:\n%s", said)
	}
	n.wants("ls", n.run("--format", "json", "volume", "ls"), `"kind": "shadow"`, `"kind": "local-volume"`)
	docker.Close()
	n.wants("ls without Docker", n.run("volume", "ls"), "db    ready")
}

// What cannot be made is said with a way out, and nothing of it stays: more than the disk has, a mkfs that is not installed. And a name that Docker takes
// and device-mapper would not is as good as any.
func TestBadInput(t *testing.T) {
	n := guestNode(t)
	nothing := func(what string) {
		t.Helper()
		n.wants(what, n.run("--format", "json", "volume", "ls"), `"volumes": []`)
		for _, dir := range []string{"volumes", "removed", "mnt"} {
			if entries, err := os.ReadDir(filepath.Join(n.root, "var/lib/voluks", dir)); err != nil && !os.IsNotExist(err) || len(entries) > 0 {
				t.Errorf("%s: left in %s: %v, %v", what, dir, entries, err)
			}
		}
	}
	n.wants("larger than the disk", n.fails(exitNoSpace, "volume", "create", "db", "--size", "1024T"), " needed, ", "hint: ", "or make it smaller: --size")
	nothing("larger than the disk")

	mkfs, err := exec.LookPath("mkfs.ext4")
	if err == nil {
		mkfs, err = filepath.EvalSymlinks(mkfs)
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("/dev/null", mkfs, "", syscall.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	hidden := true
	show := func() {
		if hidden {
			hidden = false
			if err := syscall.Unmount(mkfs, 0); err != nil {
				t.Error(err)
			}
		}
	}
	defer show()
	n.wants("without mkfs", n.fails(exitUnsupported, "volume", "create", "db", "--size", "32M"), "mkfs.ext4 is not installed", "apt install e2fsprogs")
	nothing("without mkfs")
	show()

	name := strings.Repeat("n", 250)
	n.run("volume", "create", name, "--size", "32M")
	path := strings.TrimSpace(n.run("volume", "mount", name))
	if err := os.WriteFile(filepath.Join(path, "x"), nil, 0o600); err != nil {
		t.Error(err)
	}
	n.run("volume", "umount", name)
}
