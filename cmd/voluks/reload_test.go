// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/voluks/voluks/dockerplugin"
)

// SIGHUP says at once whether the configuration is right, and ends nothing.
func TestReload(t *testing.T) {
	n := newNode(t)
	log, err := os.Create(filepath.Join(n.root, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	agent := n.command("serve")
	agent.Stderr = log
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer agent.Process.Kill()
	said := func() string {
		b, err := os.ReadFile(log.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("the agent never %s:\n%s", what, said())
			}
		}
	}
	until("answered", func() bool { return dockerplugin.Ping(t.Context(), n.socket()) == nil })

	file := filepath.Join(n.root, "etc/voluks/config.toml")
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	reload := func(content []byte, want string) {
		t.Helper()
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := agent.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		until("said "+want, func() bool { return strings.Contains(said(), want) })
	}
	reload([]byte("[volumes]\nnonsense = 1\n"), "the configuration is wrong")
	reload(good, "the configuration is right")
	if err := dockerplugin.Ping(t.Context(), n.socket()); err != nil {
		t.Error(err)
	}
	if err := agent.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := agent.Wait(); err != nil {
		t.Errorf("%v:\n%s", err, said())
	}
}

// A command that has nothing to reload ends when its terminal does.
func TestHangup(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	newEnv().hangups(ctx, cancel)
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	<-ctx.Done()
	if ctx.Err() != context.Canceled {
		t.Error(ctx.Err())
	}
}
