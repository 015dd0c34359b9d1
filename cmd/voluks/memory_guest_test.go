// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/voluks/voluks/dockerplugin"
	"github.com/voluks/voluks/internal/testenv"
)

// Many volumes are asked for at once, as when a node boots, where there are 96 MiB for the agent and all that it starts: with a worker for each they would
// not do. An Argon2id slot of cryptsetup's defaults takes up to 1 GiB each. F42
func TestGuestManyVolumesInLittleMemory(t *testing.T) {
	const volumes, limit = 24, 96 << 20
	testenv.Guest(t)
	testenv.LeakCheck(t)
	n := &node{t, testenv.Ext4Dir(t, 2)}
	n.run("init", "--no-recovery")
	config := filepath.Join(n.root, "etc/voluks/config.toml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(strings.Replace(string(text), "overcommit = false", "overcommit = true", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	a := n.serve()
	for i := range volumes {
		if got := n.call("VolumeDriver.Create", fmt.Sprintf(`{"Name":"v%d","Opts":{"size":"16M","alloc":"sparse"}}`, i)); got != "{}" {
			t.Fatalf("create: %s", got)
		}
	}
	a.end(syscall.SIGTERM)

	const group = "/sys/fs/cgroup/voluks"
	if err := os.WriteFile("/sys/fs/cgroup/cgroup.subtree_control", []byte("+memory"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() {
		// A process that ended stays in its group until the kernel has put it away, which wait(2) does not wait for.
		err := os.Remove(group)
		for end := time.Now().Add(patience); errors.Is(err, syscall.EBUSY) && time.Now().Before(end); err = os.Remove(group) {
			time.Sleep(5 * time.Millisecond)
		}
		if err != nil {
			processes, _ := os.ReadFile(group + "/cgroup.procs")
			t.Errorf("%v; processes that did not end: %s", err, processes)
		}
	}()
	if err := os.WriteFile(group+"/memory.max", []byte(strconv.Itoa(limit)), 0o600); err != nil {
		t.Fatal(err)
	}
	inside, err := os.Open(group)
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	serve := n.command("serve")
	serve.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(inside.Fd())}
	a = n.start(serve)
	a.until("answers", func() bool { return dockerplugin.Ping(t.Context(), n.socket()) == nil })
	began := time.Now()
	gone := func() bool {
		select {
		case <-a.done:
			return true
		default:
			return false
		}
	}
	var wg sync.WaitGroup
	for i := range volumes {
		wg.Go(func() {
			body := fmt.Sprintf(`{"Name":"v%d","ID":"1"}`, i)
			got, err := n.post("VolumeDriver.Mount", body)
			for err != nil && !gone() && time.Since(began) < time.Minute { // as Docker does when the connection breaks
				got, err = n.post("VolumeDriver.Mount", body)
			}
			if err != nil || !strings.Contains(got, "/data") {
				t.Errorf("mount: %s, %v", got, err)
			}
		})
	}
	wg.Wait()
	if gone() {
		events, _ := os.ReadFile(group + "/memory.events")
		t.Fatalf("the agent ended: %v\n%s\n%s", a.err, events, a.log)
	}
	peak, err := os.ReadFile(group + "/memory.peak")
	if err != nil {
		t.Fatal(err)
	}
	events, err := os.ReadFile(group + "/memory.events")
	if err != nil || !strings.Contains(string(events), "oom_kill 0\n") {
		t.Errorf("%v, %s", err, events)
	}
	t.Logf("%d volumes mounted at once took at most %s bytes", volumes, strings.TrimSpace(string(peak)))
	for i := range volumes {
		if got := n.call("VolumeDriver.Unmount", fmt.Sprintf(`{"Name":"v%d","ID":"1"}`, i)); got != "{}" {
			t.Errorf("unmount: %s", got)
		}
	}
	if status, log := a.end(syscall.SIGTERM); status != "exit status 0" {
		t.Errorf("the agent ended with %s:\n%s", status, log)
	}
}
