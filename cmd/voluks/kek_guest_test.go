// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest/fakekms"
	"github.com/voluks/voluks/internal/kek/realtest"
	"github.com/voluks/voluks/internal/volume"
)

// transit starts Vault's own transit engine, which scripts/test-small has built, with a derived key "voluks".
func transit(t *testing.T) (url string) {
	t.Helper()
	program := "../../bin/transitd"
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v; scripts/test-small ./cmd/voluks makes it", err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	cmd := exec.Command(program, address)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	url = "http://" + address
	eventually(t, "transit answers", func() error { return vaultWrite(url, "transit/keys/voluks", `{"derived":true}`) })
	return url
}

// vaultWrite is "vault write PATH", by an administrator.
func vaultWrite(url, path, body string) error {
	req, err := http.NewRequest(http.MethodPost, url+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("X-Vault-Token", "s.token")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode >= 300 {
		return fmt.Errorf("%s: %s", path, res.Status)
	}
	return nil
}

func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// writer writes to a file in a volume all the time, each line synced, until stop, which fails the test if one of them was not written.
func writer(t *testing.T, path string) (stop func()) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	lines := 0
	wg.Go(func() {
		defer f.Close()
		for ctx.Err() == nil {
			if _, err := fmt.Fprintf(f, "%d\n", lines); err != nil {
				t.Error(err)
				return
			}
			if err := f.Sync(); err != nil {
				t.Error(err)
				return
			}
			lines++
			time.Sleep(20 * time.Millisecond) // not a wait: the guest has one CPU
		}
	})
	return func() {
		t.Helper()
		cancel()
		wg.Wait()
		b, err := os.ReadFile(path)
		if err != nil || strings.Count(string(b), "\n") != lines || lines == 0 {
			t.Errorf("%d lines were written, %d are there: %v", lines, strings.Count(string(b), "\n"), err)
		}
	}
}

// keyed makes table, the text of [kek], the active key, and keeps what was active to unwrap if keep is set.
func (n *node) keyed(table string, keep bool) {
	n.t.Helper()
	p := config.PathsUnder(n.root)
	cfg, err := config.Load(p)
	if err != nil {
		n.t.Fatal(err)
	}
	cfg.Previous = nil
	if keep {
		cfg.Previous = []config.KEK{cfg.KEK}
	}
	if cfg.KEK, err = config.ParseKEK("table", []byte(table), p); err != nil {
		n.t.Fatal(err)
	}
	if err := config.Write(p, cfg); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) keyList() []keyStatus {
	n.t.Helper()
	var list struct{ Keys []keyStatus }
	if err := json.Unmarshal([]byte(n.run("--format", "json", "kek", "ls")), &list); err != nil {
		n.t.Fatal(err)
	}
	return list.Keys
}

func tangTable(policy string) string {
	return "[kek]\nprovider='clevis'\n[kek.clevis]\npin='tang'\npolicy='" + policy + "'\n"
}

// file -> Vault's transit -> KMS -> clevis with a real tang server -> file, under a mounted volume that is written to all the time. After each move what
// was left behind is needed by no volume, and the new key alone gives what opens it. F28 F29 F39 F40
func TestGuestMoveKeys(t *testing.T) {
	n := guestNode(t)
	tang := realtest.NewTang(t)
	vault := transit(t)
	kms := httptest.NewServer(fakekms.New())
	t.Cleanup(kms.Close)
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
	} {
		t.Setenv(name, value)
	}
	token := filepath.Join(n.root, "token")
	if err := os.WriteFile(token, []byte("s.token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.run("volume", "create", "db", "--size", "32M")
	data := strings.TrimSpace(n.run("volume", "mount", "db"))
	before, err := topMount(filepath.Dir(data))
	if err != nil || before == nil {
		t.Fatal(err)
	}
	stop := writer(t, filepath.Join(data, "lines"))

	second := filepath.Join(n.root, "etc/voluks/second.key")
	n.wants("create", n.run("kek", "create", "file", second), second)
	left := n.onlyKey()
	for _, table := range []string{
		"[kek]\nprovider='vault'\n[kek.vault]\naddress='" + vault + "'\nkey='voluks'\nderived=true\ntoken_file='" + token + "'\n",
		"[kek]\nprovider='awskms'\n[kek.awskms]\nkey_id='" + fakekms.KeyA + "'\nendpoint='" + kms.URL + "'\n",
		tangTable(tang.Policy()),
		"[kek]\nprovider='file'\n[kek.file]\npath='" + second + "'\n",
	} {
		n.keyed(table, true)
		n.wants("rotate", n.run("kek", "rotate"), "db    moved", left.ID+" is needed by no volume any more")
		n.wants("again", n.run("kek", "rotate"), "db    unchanged")
		n.keyed(table, false)
		now := n.onlyKey()
		if now.SameKey(left) || !strings.Contains(table, "provider='"+now.Provider+"'") {
			t.Errorf("moved from %v to %v by\n%s", left, now, table)
		}
		left = now
	}
	stop()
	now, err := topMount(filepath.Dir(data))
	if err != nil || now == nil || now.ID != before.ID {
		t.Errorf("the mount is %+v, was %+v: %v", now, before, err)
	}
	n.run("volume", "umount", "db")
	n.run("volume", "mount", "db")
	n.run("volume", "umount", "db")
}

// onlyKey is the one key that is configured, which the volume db needs, and which could unwrap what it has wrapped for it.
func (n *node) onlyKey() kek.Ref {
	n.t.Helper()
	list := n.keyList()
	if len(list) != 1 || list[0].Use != useActive || len(list[0].Volumes) != 1 || list[0].State != "reachable" || list[0].Took == nil || *list[0].Took <= 0 {
		n.t.Fatalf("kek ls: %+v", list)
	}
	return list[0].Key
}

// The key server is away when the agent starts: the volumes that need it are locked and say why and until when, others are served, mounted ones do not
// notice; it is asked until it comes, and a container that came meanwhile gets its volume. F7 F28 F40 F43
func TestGuestLateKeyServer(t *testing.T) {
	n := guestNode(t)
	tang := realtest.NewTang(t)
	n.run("volume", "create", "here", "--size", "32M")
	n.keyed(tangTable(tang.Policy()), true)
	for _, name := range []string{"db", "open"} {
		n.run("volume", "create", name, "--size", "32M")
	}
	path := strings.TrimSpace(n.run("volume", "mount", "open"))
	stop := writer(t, filepath.Join(path, "lines"))
	tang.Stop()

	n.serve()
	locked := func() error {
		info := n.inspect("db")
		if info.State != volume.StateLocked || !strings.Contains(info.Reason, tang.URL()) || info.NextTry == nil {
			return fmt.Errorf("%s: %q, next try %v", info.State, info.Reason, info.NextTry)
		}
		return nil
	}
	eventually(t, "locked, with the reason", locked)
	n.wants("inspect", n.run("volume", "inspect", "db"), "next try in")
	n.wants("Docker's status", n.call("VolumeDriver.Get", `{"Name":"db"}`), `"state":"locked"`, `"next_try":"`, tang.URL())
	n.wants("others", n.call("VolumeDriver.Mount", `{"Name":"here","ID":"a"}`), `{"Mountpoint":"`)
	n.call("VolumeDriver.Unmount", `{"Name":"here","ID":"a"}`)
	for _, s := range n.keyList() {
		if want := map[string]string{"clevis": "unreachable", "file": "reachable"}[s.Key.Provider]; s.State != want || (s.Error != "") != (want == "unreachable") {
			t.Errorf("kek ls: %+v", s)
		}
	}
	n.wants("kek test", n.fails(exitLocked, "kek", "test"), "failed", "does not answer")
	if info := n.inspect("open"); info.State != volume.StateMounted {
		t.Errorf("the mounted volume is %s: %s", info.State, info.Reason)
	}

	// A container asks while it is away, and waits.
	answered := make(chan string, 1)
	go func() { answered <- n.call("VolumeDriver.Mount", `{"Name":"db","ID":"b"}`) }()
	lock := config.PathsUnder(n.root).Lock("db")
	eventually(t, "the mount is under way", func() error {
		if b, err := os.ReadFile(lock); err != nil || !strings.Contains(string(b), `"mount"`) {
			return fmt.Errorf("%s %v", b, err)
		}
		return nil
	})
	tang.Start()
	n.wants("the container's mount", <-answered, `{"Mountpoint":"`+n.root)
	n.call("VolumeDriver.Unmount", `{"Name":"db","ID":"b"}`)
	if info := n.inspect("db"); info.State != volume.StateReady || info.Reason != "" {
		t.Errorf("afterwards it is %s: %s", info.State, info.Reason)
	}

	// It goes away again and never comes while somebody waits: an error that says why, and never a directory.
	tang.Stop()
	n.wants("never", n.call("VolumeDriver.Mount", `{"Name":"db","ID":"c"}`), `"Err":"`, tang.URL(), "tried")
	if info := n.inspect("db"); info.State != volume.StateLocked || info.Mountpoint != "" || len(info.Holders) > 0 {
		t.Errorf("left %+v", info)
	}
	stop()
	n.run("volume", "umount", "open")
}
