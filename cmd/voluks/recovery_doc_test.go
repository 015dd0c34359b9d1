// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
)

// A block is one of the examples of docs/recovery.md, with where it runs: anywhere, at a terminal, in a guest, or later, when its command exists. One that
// is no command is a part of the configuration.
type block struct{ where, script string }

var blockPattern = regexp.MustCompile("(?s)(?:<!-- run: (\\w+) -->\n)?```(?:sh|toml)\n(.*?)```")

func recoveryBlocks(t *testing.T) []block {
	t.Helper()
	text, err := os.ReadFile("../../docs/recovery.md")
	if err != nil {
		t.Fatal(err)
	}
	var blocks []block
	for _, m := range blockPattern.FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, block{m[1], m[2]})
	}
	if len(blocks) < 10 {
		t.Fatalf("only %d examples found", len(blocks))
	}
	return blocks
}

// Every command of docs/recovery.md runs as it is written there, in its order, against a volume with the paths of a node: F29, and what a person does who has
// nothing but this page.
func TestRecoveryDoc(t *testing.T) {
	for _, tool := range []string{"age", "age-keygen", "cryptsetup", "gunzip"} {
		if _, err := exec.LookPath(tool); err != nil {
			testenv.Missing(t, "tools", err.Error())
		}
	}
	n := newDocNode(t)
	for _, b := range recoveryBlocks(t) {
		switch b.where {
		case "anywhere":
			n.runs(b.script)
		case "guest":
			if os.Getenv(testenv.VarGuest) != "" {
				n.runs(b.script)
			} else if testenv.Required("guest") {
				t.Errorf("not in a guest, so not run: %s", b.script)
			}
		case "terminal":
			n.runsAtTerminal(b.script)
		case "configuration":
			n.configures(b.script)
		case "later":
			n.isLater(b.script)
		default:
			t.Errorf("nobody says where this runs: %s", b.script)
		}
	}
	for _, want := range []string{
		"voluks-recovery", "Good: share 2 of 5", "share 5 of 5", "opens 1 of 1 volumes", "(with the recovery identity)", "is sealed to", "reencrypt: db",
		"opens no volume of this node any more", "opens db no more", "the identity opens it", "restored the header of db: generation ",
		"read back, and the identity opens slot ",
	} {
		if got := n.output(); !strings.Contains(got, want) {
			t.Errorf("%q is missing in what it printed:\n%s", want, got)
		}
	}
	if strings.Contains(n.output(), "AGE-SECRET-KEY") {
		t.Error("the identity was printed")
	}
	if h, err := luks.At(n.image).Header(); err != nil || h.UUID != docUUID {
		t.Errorf("the restored header: %v", err)
	}
	if os.Getenv(testenv.VarGuest) != "" && strings.Count(n.output(), "hello") != 2 {
		t.Errorf("the data was not seen with voluks and without:\n%s", n.output())
	}
}

const docUUID = "3c1e5d1b-5f0e-4c52-9f1c-8a1e6f0d2b47"

// docNode is a node with a volume, below a directory that stands for /.
type docNode struct {
	t                  *testing.T
	root, image, where string
	leaked             string // ID of the key that is to be revoked
	key                string // the recovery key that was shown, for those who type it
	out                bytes.Buffer
}

func newDocNode(t *testing.T) *docNode {
	t.Helper()
	n := emptyDocNode(t)
	if status := run([]string{"voluks", "--root", n.root, "init", "--recovery-identity-file", filepath.Join(n.where, "identity")}, &env{stdin: os.Stdin, stdout: &n.out, stderr: &n.out}); status != 0 {
		t.Fatalf("init: exit status %d:\n%s", status, n.out.String())
	}
	c, k := n.volume("db", docUUID)
	if os.Getenv(testenv.VarGuest) != "" {
		n.fill(c, k)
	}
	return n
}

// emptyDocNode is the machine before it is set up.
func emptyDocNode(t *testing.T) *docNode {
	t.Helper()
	root := t.TempDir()
	t.Cleanup(func() { // an immutable mountpoint would stay
		if err := filesystem.RemoveBare(filepath.Join(root, "var/lib/voluks/mnt/db")); err != nil {
			t.Error(err)
		}
	})
	n := &docNode{t: t, root: root, image: filepath.Join(root, "var/lib/voluks/volumes/db/image"), where: filepath.Join(root, "run/work")}
	for _, dir := range []string{filepath.Dir(n.image), n.where, filepath.Join(root, "run/shares"), filepath.Join(root, "mnt"), filepath.Join(root, "bin")} {
		must(t, os.MkdirAll(dir, 0o755))
	}
	program, err := exec.LookPath("voluks") // which testscript made of this binary
	must(t, err)
	must(t, os.WriteFile(filepath.Join(root, "bin/voluks"), []byte(fmt.Sprintf("#!/bin/sh\nexec %s --root %s \"$@\"\n", program, root)), 0o755))
	return n
}

// volume makes one without a file system, which needs no device-mapper: header, key slots and record are those of a real one.
func (n *docNode) volume(name, uuid string) (*luks.Container, *keyslot.Keyring) {
	t := n.t
	t.Helper()
	image := filepath.Join(n.root, "var/lib/voluks/volumes", name, "image")
	must(t, os.MkdirAll(filepath.Dir(image), 0o755))
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 48<<20))
	cfg, err := (&env{root: n.root}).loadConfig()
	must(t, err)
	k, err := keyslot.OpenKeyring(cfg)
	must(t, err)
	c := luks.At(image)
	must(t, keyslot.Format(t.Context(), c, k, luks.FormatParams{UUID: uuid, Label: name, Subsystem: "voluks", SectorSize: 4096}))
	must(t, keyslot.SetVolume(c, keyslot.VolumeToken{Name: name, FS: "ext4", FSUUID: uuid}))
	spec, err := volume.ParseOptions(name, nil, volume.Defaults{Size: 32 << 20, FS: "ext4"})
	must(t, err)
	record, err := json.Marshal(map[string]any{
		"v": 1, "name": name, "uuid": uuid, "fs_uuid": uuid, "state": "ready", "spec": spec, "sector_size": 4096, "created": time.Now().UTC(),
	})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(filepath.Dir(image), "record.json"), record, 0o600))
	if len(k.Recipients) > 0 {
		_, err = volume.HeaderBackups{Dir: filepath.Join(n.root, "var/lib/voluks/backups")}.Renew(k, image, uuid)
		must(t, err)
	}
	return c, k
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fill puts a file system with a file into the volume.
func (n *docNode) fill(c *luks.Container, k *keyslot.Keyring) {
	n.t.Helper()
	slot, key, err := keyslot.Unlock(n.t.Context(), c, k)
	must(n.t, err)
	defer key.Wipe()
	name := luks.MappingName(docUUID)
	cmd := exec.CommandContext(n.t.Context(), "cryptsetup", "open", "--key-slot", fmt.Sprint(slot), "--key-file", "-", n.image, name)
	cmd.Stdin = bytes.NewReader(key.Bytes())
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("%v: %s", err, out)
	}
	device := "/dev/mapper/" + name
	must(n.t, filesystem.Make(n.t.Context(), device, filesystem.Spec{Type: "ext4", UUID: docUUID, Label: "db"}))
	n.runs("mount " + device + " /mnt && mkdir /mnt/data && touch /mnt/data/hello && umount /mnt && cryptsetup close " + name)
}

// at puts the paths of a node below the root of the test.
func (n *docNode) at(text string) string {
	for _, dir := range []string{"/etc/voluks/", "/var/lib/voluks/", "/run/shares", "/run/again", "/mnt"} {
		text = strings.ReplaceAll(text, " "+dir, " "+n.root+dir)
		text = strings.ReplaceAll(text, ">"+dir, ">"+n.root+dir)
		text = strings.ReplaceAll(text, `"`+dir, `"`+n.root+dir)
	}
	return text
}

// runs executes an example in the directory with the identity. Paths of a node are those below the root of the test, voluks is the program under test, and
// what an example leaves open is filled in.
func (n *docNode) runs(script string) {
	n.t.Helper()
	shown := script
	script = n.at(script)
	script = strings.ReplaceAll(script, "BACKUP", n.newestBackup())
	script = strings.ReplaceAll(script, "revoke ID", "revoke "+n.leaked)
	script = strings.ReplaceAll(script, "age1...", "$(age-keygen -y identity.new)")
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	// An identity that an earlier example made is in the way of the next.
	if strings.Contains(script, "--out identity") {
		must(n.t, os.Rename(filepath.Join(n.where, "identity"), filepath.Join(n.where, "before")))
	}
	cmd := exec.CommandContext(ctx, "sh", "-eu", "-c", script)
	cmd.Dir = n.where
	cmd.Env = n.environ()
	cmd.Stdin = strings.NewReader(n.key + "\n")
	out, err := cmd.CombinedOutput()
	n.out.Write(out)
	if err != nil {
		n.t.Fatalf("an example fails: %v\n%s\n%s", err, shown, out)
	}
}

func (n *docNode) environ() []string {
	return append(os.Environ(), "PATH="+filepath.Join(n.root, "bin")+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
}

// newestBackup is the newest header backup of the volume, or nothing.
func (n *docNode) newestBackup() string {
	n.t.Helper()
	all, err := filepath.Glob(filepath.Join(n.root, "var/lib/voluks/backups", docUUID, "g*.age"))
	must(n.t, err)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1]
}

// runsAtTerminal runs one command with a person who types what it asks for.
func (n *docNode) runsAtTerminal(script string) {
	n.t.Helper()
	p, e := terminal(n.t)
	args := strings.Fields(script)
	root := n.root
	if args[1] == "init" {
		root = n.t.TempDir() // for this one the node must not be set up
	}
	cmd := voluks(append([]string{"--root", root}, args[1:]...)...)
	cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = n.where, e.stdin, e.stdout, e.stderr
	must(n.t, cmd.Start())
	if args[1] == "init" {
		p.showsShares(5)
	} else {
		n.key = p.sees(`never again(?s:.*?)\r?\n    ([a-z-]{71})\r?\n`)[1]
		p.sees(`█(?s:.*)type its last 8 characters: $`)
		p.types(n.key[len(n.key)-8:])
		p.sees(`the recovery key opens db, by slot \d+\r?\n$`)
	}
	if err := cmd.Wait(); err != nil {
		n.t.Fatalf("%s: %v\n%s", script, err, p.text())
	}
}

// configures puts an example in the place of the key provider of the node.
func (n *docNode) configures(text string) {
	n.t.Helper()
	cfg, err := (&env{root: n.root}).loadConfig()
	must(n.t, err)
	k, err := keyslot.OpenKeyring(cfg)
	must(n.t, err)
	n.leaked = k.KEK.Active.Ref().ID
	file := config.PathsUnder(n.root).ConfigFile()
	b, err := os.ReadFile(file)
	must(n.t, err)
	old := regexp.MustCompile(`(?s)\n\[kek\]\n.*?\npath = [^\n]*\n`).FindString(string(b))
	if old == "" {
		n.t.Fatalf("no key provider in\n%s", b)
	}
	must(n.t, os.WriteFile(file, []byte(strings.Replace(string(b), old, "\n"+n.at(text), 1)), 0o600))
}

// isLater wants that the commands of an example do not exist yet. When they do, it has to be run.
func (n *docNode) isLater(script string) {
	n.t.Helper()
	for line := range strings.Lines(script) {
		if understood(line) == nil {
			n.t.Errorf("this command exists by now: mark it to be run, and let this test run it: %s", line)
		}
	}
}

// understood tells whether a line of an example is a command of voluks with flags that it has.
func understood(line string) error {
	_, err := normalize(newApp(newEnv()), strings.Fields(line)[1:])
	return err
}

func (n *docNode) output() string { return n.out.String() }
