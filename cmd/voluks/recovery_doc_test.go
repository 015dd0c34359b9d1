// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/headerbackup"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// A block is one of the examples of docs/recovery.md, with where it runs: anywhere, in a guest, or later, when its command exists.
type block struct{ where, script string }

var blockPattern = regexp.MustCompile("(?s)(?:<!-- run: (\\w+) -->\n)?```sh\n(.*?)```")

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
	for _, tool := range []string{"age", "cryptsetup", "gunzip"} {
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
		case "hand": // needs what only a real node has, such as the ID of a leaked key
			n.exists(b.script)
		case "later":
			n.isLater(b.script)
		default:
			t.Errorf("nobody says where this runs: %s", b.script)
		}
	}
	if got := n.output(); !strings.Contains(got, "voluks-recovery") || !strings.Contains(got, "Good: share 2 of 5") || !strings.Contains(got, "share 5 of 5") ||
		!strings.Contains(got, "the identity opens it") || !strings.Contains(got, "restored the header of db: generation 1, read back, and the identity opens slot 30") {
		t.Errorf("it printed only:\n%s", got)
	}
	if h, err := luks.At(n.image).Header(); err != nil || h.UUID != docUUID {
		t.Errorf("the restored header: %v", err)
	}
	if os.Getenv(testenv.VarGuest) != "" && !strings.Contains(n.output(), "hello") {
		t.Errorf("the data was not seen:\n%s", n.output())
	}
}

const docUUID = "3c1e5d1b-5f0e-4c52-9f1c-8a1e6f0d2b47"

// docNode is a node with a volume, below a directory that stands for /.
type docNode struct {
	t             *testing.T
	root, image   string
	backup, where string
	out           bytes.Buffer
}

func newDocNode(t *testing.T) *docNode {
	t.Helper()
	root := t.TempDir()
	n := &docNode{t: t, root: root, image: filepath.Join(root, "var/lib/voluks/volumes/db/image"), where: filepath.Join(root, "run/work")}
	for _, dir := range []string{filepath.Dir(n.image), n.where, filepath.Join(root, "run/shares"), filepath.Join(root, "mnt")} {
		must(t, os.MkdirAll(dir, 0o755))
	}
	identity := filepath.Join(n.where, "identity")
	if status := run([]string{"voluks", "--root", root, "init", "--recovery-identity-file", identity}, &env{stdin: os.Stdin, stdout: &n.out, stderr: &n.out}); status != 0 {
		t.Fatalf("init: exit status %d:\n%s", status, n.out.String())
	}
	must(t, os.WriteFile(n.image, nil, 0o600))
	must(t, os.Truncate(n.image, 48<<20))
	cfg, err := (&env{root: root}).loadConfig()
	must(t, err)
	k, err := keyslot.OpenKeyring(cfg)
	must(t, err)
	c := luks.At(n.image)
	must(t, keyslot.Format(t.Context(), c, k, luks.FormatParams{UUID: docUUID, Label: "db", Subsystem: "voluks", SectorSize: 4096}))
	must(t, keyslot.SetVolume(c, keyslot.VolumeToken{Name: "db", FS: "ext4", FSUUID: docUUID}))
	n.record()
	if os.Getenv(testenv.VarGuest) != "" {
		n.fill(c, k)
	}
	recipients, err := recovery.ParseRecipients(cfg.Recovery.Recipients)
	must(t, err)
	store := headerbackup.New(headerbackup.Options{
		Dir: filepath.Join(root, "var/lib/voluks/backups"), Recipients: recipients,
		Generation: func(h *header.Header) (uint64, error) { s, err := keyslot.State(h); return s.Generation(), err },
	})
	b, err := store.Take(headerbackup.Of(c), docUUID)
	must(t, err)
	n.backup = b.Copies[0].Path
	return n
}

// record writes what a node remembers of a volume.
func (n *docNode) record() {
	n.t.Helper()
	text := `{"v":1,"name":"db","uuid":"` + docUUID + `","fs_uuid":"` + docUUID + `","state":"ready","sector_size":4096,"created":"2026-01-02T03:04:05Z",
		"spec":{"name":"db","size":33554432,"fs":"ext4","backing":"image","uid":0,"gid":0,"mode":448,"alloc":"sparse"}}`
	must(n.t, os.WriteFile(filepath.Join(filepath.Dir(n.image), "record.json"), []byte(text), 0o600))
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

// runs executes an example in the directory with the identity. Paths of a node are those below the root of the test, and voluks is the program under test.
func (n *docNode) runs(script string) {
	n.t.Helper()
	shown := script
	for _, dir := range []string{"/var/lib/voluks/", "/run/shares", "/run/again", "/mnt"} {
		script = strings.ReplaceAll(script, dir, n.root+dir)
	}
	script = strings.ReplaceAll(script, "BACKUP", n.backup)
	for _, noun := range []string{"recovery", "header"} {
		script = strings.ReplaceAll(script, "voluks "+noun, "voluks --root "+n.root+" "+noun)
	}
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	// An identity that an earlier example made is in the way of the next.
	if strings.Contains(script, "--out identity") {
		must(n.t, os.Rename(filepath.Join(n.where, "identity"), filepath.Join(n.where, "before")))
	}
	cmd := exec.CommandContext(ctx, "sh", "-eu", "-c", script)
	cmd.Dir = n.where
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.CombinedOutput()
	n.out.Write(out)
	if err != nil {
		n.t.Fatalf("an example fails: %v\n%s\n%s", err, shown, out)
	}
}

// exists wants that the commands of an example are commands of voluks.
func (n *docNode) exists(script string) {
	n.t.Helper()
	for line := range strings.Lines(script) {
		if err := understood(line); err != nil {
			n.t.Errorf("%s: %v", line, err)
		}
	}
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
