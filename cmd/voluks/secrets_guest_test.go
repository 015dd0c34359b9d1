// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// secrets are the keys of a node and its volume by name, as a test gets hold of them: from its files, its provider and its identity.
type secrets map[string][]byte

// learn adds the keys that open a container now.
func (s secrets) learn(t *testing.T, when string, c *luks.Container, k *keyslot.Keyring, identities []recovery.Identity) {
	t.Helper()
	add := func(name string, key *secret.Key, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		s[name+" "+when] = bytes.Clone(key.Bytes())
		key.Wipe()
	}
	_, key, err := keyslot.Unlock(t.Context(), c, k)
	add("agent slot key", key, err)
	_, key, err = keyslot.UnlockRecovery(c, identities)
	add("recovery slot key", key, err)
	h, err := c.Header()
	must(t, err)
	for _, token := range h.Tokens {
		if decoded, err := keyslot.DecodeToken(token.JSON); err == nil {
			if agent, ok := decoded.(keyslot.AgentToken); ok {
				w, err := k.KEK.Unwrap(t.Context(), kek.Binding{VolumeUUID: h.UUID, Role: keyslot.RoleAgent}, agent.KEK, agent.Wrap)
				add("W", w, err)
			}
		}
	}
}

// notations are the forms in which a key would be found: whole or half as it is, and as the texts that people and programs make of keys.
func (s secrets) notations() map[string][]byte {
	all := map[string][]byte{}
	for name, key := range s {
		half := len(key) / 2
		all[name+", first half"], all[name+", second half"] = key[:half], key[half:]
		all[name+" in hex"], all[name+" in HEX"] = []byte(hex.EncodeToString(key)), []byte(strings.ToUpper(hex.EncodeToString(key)))
		// The last characters depend on what follows.
		all[name+" in base64"] = []byte(base64.StdEncoding.EncodeToString(key)[:len(key)*4/3-2])
		all[name+" in base64url"] = []byte(base64.URLEncoding.EncodeToString(key)[:len(key)*4/3-2])
		all[name+" as a list"] = []byte(strings.Trim(fmt.Sprint(key[:half]), "[]"))
	}
	return all
}

// F41: a volume is created, mounted, rotated and closed by the program as people run it, under strace, and a mount dies with SIGABRT while the volume key
// goes to the kernel. No key of it or of its node is in any argument, environment or write, in whatever notation, nor afterwards in any file below its root;
// and there is no core dump. The one call that a key is in is the one that hands the volume key to the kernel's keyring.
func TestGuestSecretsStayInside(t *testing.T) {
	n := guestNode(t)
	identity := filepath.Join(t.TempDir(), "identity")
	must(t, os.RemoveAll(n.root))
	n.run("init", "--recovery-identity-file", identity)
	image, master := filepath.Join(n.root, "var/lib/voluks/volumes/db/image"), filepath.Join(n.root, "etc/voluks/master.key")
	cfg, err := (&env{root: n.root}).loadConfig()
	must(t, err)
	k, err := keyslot.OpenKeyring(cfg)
	must(t, err)
	raw, err := os.ReadFile(identity)
	must(t, err)
	text, err := secret.Move(raw)
	must(t, err)
	defer text.Wipe()
	identities, err := recovery.ParseIdentities(text)
	must(t, err)

	all := secrets{}
	if all["master key"], err = os.ReadFile(master); err != nil {
		t.Fatal(err)
	}
	traces := t.TempDir()
	program := filepath.Join(t.TempDir(), "voluks") // by that name this test is the program
	must(t, os.Symlink(n.command().Path, program))
	// writes are the calls that could carry a key out; -v for the environment of execve.
	const writes = "trace=execve,execveat,open,openat,creat,write,pwrite64,writev,pwritev,pwritev2,sendto,sendmsg,sendmmsg,splice,vmsplice,rename,symlink,add_key"
	strace := func(what string, env []string, more []string, args ...string) {
		t.Helper()
		cmd := exec.Command("strace", "-f", "-v", "-xx", "-s", "1048576", "-e", writes, "-o", filepath.Join(traces, what))
		cmd.Args = append(append(append(cmd.Args, more...), program, "--root", n.root), args...)
		cmd.Env = append(os.Environ(), env...)
		out, err := cmd.CombinedOutput()
		if (err != nil) != (len(more) > 0) {
			t.Fatalf("%s: %v\n%s", what, err, out)
		}
		must(t, os.WriteFile(filepath.Join(traces, what+".out"), out, 0o600))
	}
	loopOf := func() *luks.Container {
		t.Helper()
		out, err := exec.Command("losetup", "-j", image, "--noheadings", "--output", "NAME").Output()
		must(t, err)
		return luks.At(strings.TrimSpace(string(out)))
	}

	strace("create", nil, nil, "volume", "create", "db", "--size", "16M", "--fs", "ext4")
	all.learn(t, "at first", luks.At(image), k, identities)
	slot, key, err := keyslot.Unlock(t.Context(), luks.At(image), k)
	must(t, err)
	defer key.Wipe()
	all["volume key"] = volumeKey(t, image, slot, key)
	strace("mount", nil, nil, "volume", "mount", "db")
	strace("rotate", nil, nil, "keyslot", "rotate", "db", "--role", "all")
	all.learn(t, "rotated", loopOf(), k, identities)

	// It crashes while it has keys in its memory, where everything would be for a core dump: no limit, and a place to put it.
	const pattern = "/proc/sys/kernel/core_pattern"
	before, err := os.ReadFile(pattern)
	must(t, err)
	defer os.WriteFile(pattern, before, 0o644)
	must(t, os.WriteFile(pattern, []byte(filepath.Join(traces, "core.%p")), 0o644))
	must(t, exec.Command("prlimit", "--pid", fmt.Sprint(os.Getpid()), "--core=unlimited").Run())
	strace("umount", nil, nil, "volume", "umount", "db")
	strace("crash", []string{"GOTRACEBACK=crash"}, []string{"-e", "inject=add_key:signal=ABRT"}, "volume", "mount", "db")
	n.run("volume", "mount", "db")
	n.run("volume", "umount", "db")

	notations := all.notations()
	if len(all) < 8 {
		t.Errorf("only %d keys are known", len(all))
	}
	entries, err := os.ReadDir(traces)
	must(t, err)
	seen := map[string]bool{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "core.") {
			t.Errorf("there is a core dump: %s", e.Name())
		}
		searchTrace(t, filepath.Join(traces, e.Name()), notations, seen)
	}
	// The search finds what is there: the names of the programs, and in the writes the name of the volume.
	for _, want := range []string{"execve", "write", "pwrite64", "mkfs", "add_key"} {
		if !seen[want] {
			t.Errorf("there is no %s in the traces", want)
		}
	}
	must(t, filepath.WalkDir(n.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path == master {
			return err
		}
		content, err := os.ReadFile(path)
		for name, form := range notations {
			if bytes.Contains(content, form) {
				t.Errorf("%s is in %s", name, path)
			}
		}
		return err
	}))
}

// searchTrace looks for keys in what strace has written, in which strings are in hex, and notes what calls there are.
func searchTrace(t *testing.T, path string, notations map[string][]byte, seen map[string]bool) {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	escaped := map[string][]byte{}
	for name, form := range notations {
		var b bytes.Buffer
		for _, c := range form {
			fmt.Fprintf(&b, `\x%02x`, c)
		}
		escaped[name] = b.Bytes()
	}
	mkfs := []byte(`\x6d\x6b\x66\x73`)
	lines := bufio.NewReaderSize(f, 1<<20)
	for number := 1; ; number++ {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			_, call, _ := strings.Cut(string(line[:min(len(line), 80)]), " ")
			call, _, _ = strings.Cut(strings.TrimLeft(call, " "), "(")
			seen[call] = true
			seen["mkfs"] = seen["mkfs"] || call == "execve" && bytes.Contains(line, mkfs)
			if call == "add_key" {
				continue
			}
			for name := range notations {
				if bytes.Contains(line, escaped[name]) || bytes.Contains(line, notations[name]) {
					t.Errorf("%s: %s, line %d: %.300s", name, filepath.Base(path), number, line)
				}
			}
		}
		if err != nil {
			return
		}
	}
}

// volumeKey is the volume key of a container that is closed, as cryptsetup gives it to who has a slot key.
func volumeKey(t *testing.T, image string, slot int, key *secret.Key) []byte {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "slot"), key.Bytes(), 0o600))
	dump := filepath.Join(dir, "volume")
	out, err := exec.Command("cryptsetup", "luksDump", "-q", "--dump-volume-key", "--volume-key-file", dump, "--key-slot", fmt.Sprint(slot),
		"--key-file", filepath.Join(dir, "slot"), image).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b, err := os.ReadFile(dump)
	if err != nil || len(b) != header.DefaultKeyBytes {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	return b
}
