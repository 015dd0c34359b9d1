// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
)

// The protocol as Docker speaks it, all eight calls and the handshake.
func TestCallsOfOneVolume(t *testing.T) {
	p := start(t, nil)
	for _, step := range []struct{ call, body, want string }{
		{"Plugin.Activate", "", `{"Implements": ["VolumeDriver"]}`},
		{"VolumeDriver.Capabilities", "{}", `{"Capabilities":{"Scope":"local"}}`},
		{"VolumeDriver.List", "{}", `{"Volumes":[]}`},
		{"VolumeDriver.Create", `{"Name":"db","Opts":{"size":"10G"}}`, `{}`},
		{"VolumeDriver.Create", `{"Name":"db","Opts":{"size":"10G"}}`, `{}`},
		{"VolumeDriver.Path", `{"Name":"db"}`, `{"Mountpoint":""}`},
		{"VolumeDriver.Mount", `{"Name":"db","ID":"one"}`, `{"Mountpoint":"/var/lib/voluks/mnt/db/data"}`},
		{"VolumeDriver.Mount", `{"Name":"db","ID":"one"}`, `{"Mountpoint":"/var/lib/voluks/mnt/db/data"}`},
		{"VolumeDriver.Mount", `{"Name":"db","ID":"two"}`, `{"Mountpoint":"/var/lib/voluks/mnt/db/data"}`},
		{"VolumeDriver.Path", `{"Name":"db"}`, `{"Mountpoint":"/var/lib/voluks/mnt/db/data"}`},
		{"VolumeDriver.List", "", `{"Volumes":[{"Name":"db","Mountpoint":"/var/lib/voluks/mnt/db/data","CreatedAt":"2026-11-01T10:00:00Z"}]}`},
		{"VolumeDriver.Unmount", `{"Name":"db","ID":"one"}`, `{}`},
		{"VolumeDriver.Unmount", `{"Name":"db","ID":"unknown"}`, `{}`},
		{"VolumeDriver.Unmount", `{"Name":"db","ID":"two"}`, `{}`},
		{"VolumeDriver.Remove", `{"Name":"db"}`, `{}`},
		{"VolumeDriver.List", "{}", `{"Volumes":[]}`},
	} {
		if got := p.ok(step.call, step.body); got != step.want {
			t.Errorf("%s %s: got %s, want %s", step.call, step.body, got, step.want)
		}
	}
}

func TestGet(t *testing.T) {
	p := start(t, nil)
	p.ok("VolumeDriver.Create", `{"Name":"db","Opts":{"size":"10G"}}`)
	p.ok("VolumeDriver.Mount", `{"Name":"db","ID":"one"}`)
	used := int64(3 << 29)
	p.fake.volumes["db"].Used = &used
	p.fake.volumes["db"].Warnings = []string{"the bare mountpoint is not immutable"}
	since := time.Now().Add(-49 * time.Hour)
	p.fake.volumes["db"].KeySince = &since

	var got struct {
		Volume struct {
			Name, Mountpoint, CreatedAt string
			Status                      map[string]any
		}
	}
	if err := json.Unmarshal([]byte(p.ok("VolumeDriver.Get", `{"Name":"db"}`)), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"state": "mounted", "size": "10 GiB", "size_bytes": float64(10 << 30), "used": "1.5 GiB", "used_bytes": float64(3 << 29),
		"uuid": "6c9b8f1e-6f0a-4a0e-9d34-0e8bd1a3c5f7", "cipher": "aes-xts-plain64", "fs": "ext4", "backing": "image", "holders": 1.0, "key_age": "2 days",
		"slots": []any{
			map[string]any{"role": "agent", "slot": 31.0, "generation": 1.0, "kek": "file:c0ffee"},
			map[string]any{"role": "recovery", "slot": 30.0, "generation": 1.0},
		},
		"warnings": []any{"the bare mountpoint is not immutable"},
	}
	if !reflect.DeepEqual(got.Volume.Status, want) {
		t.Errorf("status is\n%v, want\n%v", got.Volume.Status, want)
	}
	if got.Volume.Name != "db" || got.Volume.Mountpoint != "/var/lib/voluks/mnt/db/data" || got.Volume.CreatedAt != "2026-11-01T10:00:00Z" {
		t.Errorf("got %+v", got.Volume)
	}
}

// Docker would take an unfinished volume for a complete one and never send the Create that finishes it.
func TestUnfinishedVolumeDoesNotExistForDocker(t *testing.T) {
	p := start(t, nil)
	p.ok("VolumeDriver.Create", `{"Name":"db"}`)
	for _, state := range []volume.State{volume.StatePrepared, volume.StateFormatted} {
		p.fake.volumes["db"].State = state
		if text := p.fails("VolumeDriver.Get", `{"Name":"db"}`); !strings.Contains(text, "create it again") {
			t.Errorf("%s: Get says %q", state, text)
		}
		if got := p.ok("VolumeDriver.List", "{}"); got != `{"Volumes":[]}` {
			t.Errorf("%s: List says %s", state, got)
		}
	}
}

// The holder names the process at the other end, here the test itself.
func TestHolderNamesThePeer(t *testing.T) {
	p := start(t, nil)
	p.ok("VolumeDriver.Create", `{"Name":"db"}`)
	p.ok("VolumeDriver.Mount", `{"Name":"db","ID":"one"}`)
	begun, err := sys.ProcessStart(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	h := p.fake.volumes["db"].Holders[0]
	if h.ID != "one" || h.Kind != volume.HolderDocker || h.PID != os.Getpid() || h.Start != begun || h.Comm == "" {
		t.Errorf("got %+v, want this process (%d, %d)", h, os.Getpid(), begun)
	}
	if h := (peer{comm: "podman", pid: 7, start: 8}).holder("x"); h.Kind != volume.HolderPodman || h.PID != 7 || h.Start != 8 {
		t.Errorf("got %+v, want a podman holder", h)
	}
}

// Errors say what a person can do, Docker shows nothing else; what is not made for people stays in the log.
func TestErrorsArePublic(t *testing.T) {
	p := start(t, nil)
	const inner = "open /secret/place: detail of the inside"
	for _, test := range []struct {
		err       error
		want      string
		operation bool
	}{
		{failed(volume.CodeLocked, "mount", "db", "the key provider does not answer"), `mount volume "db": the key provider does not answer`, true},
		{failed(volume.CodeNotFound, "mount", "db", "no such volume"), `mount volume "db": no such volume`, false},
		{failed(volume.CodeInternal, "mount", "db", inner), "internal error", true},
		{errors.New(inner), "internal error", true},
	} {
		p.fake.before = func(context.Context, string) error { return test.err }
		got := p.fails("VolumeDriver.Mount", `{"Name":"db","ID":"one"}`)
		if !strings.Contains(got, test.want) || strings.Contains(got, "secret") {
			t.Errorf("%v: the client reads %q, want %q", test.err, got, test.want)
		}
		if strings.Contains(got, "operation ") != test.operation {
			t.Errorf("%v: the client reads %q, operation wanted: %v", test.err, got, test.operation)
		}
		if _, id, ok := strings.Cut(got, "operation "); ok && !strings.Contains(p.logs.String(), "operation="+strings.TrimSuffix(id, ")")) {
			t.Errorf("operation %s is not in the log: %s", id, p.logs)
		}
	}
	if !strings.Contains(p.logs.String(), inner) {
		t.Errorf("the log does not tell the cause: %s", p.logs)
	}
}

func TestOptions(t *testing.T) {
	p := start(t, nil)
	if got := p.fails("VolumeDriver.Create", `{"Name":"db","Opts":{"sise":"10G"}}`); !strings.Contains(got, "did you mean size") {
		t.Errorf("got %q", got)
	}
	if got := p.fails("VolumeDriver.Create", `{"Name":"db","Opts":{"size":"10"}}`); !strings.Contains(got, "for example 10G") {
		t.Errorf("got %q", got)
	}
	if calls := p.fake.log(); len(calls) > 0 {
		t.Errorf("a bad option reached the volumes: %v", calls)
	}
	p.ok("VolumeDriver.Create", `{"Name":"db","Opts":{"size":"10G","fs":"xfs"}}`)
	if v := p.fake.volumes["db"]; v.Size != 10<<30 || v.FS != "xfs" {
		t.Errorf("got %+v", v)
	}
	if got := p.fails("VolumeDriver.Create", `{"Name":"db","Opts":{"size":"20G"}}`); !strings.Contains(got, "other options") {
		t.Errorf("got %q", got)
	}
}

// Docker shows a released volume as unmounted; that another namespace still has it is the agent's business.
func TestUnmountThatCannotCloseYet(t *testing.T) {
	p := start(t, nil)
	p.ok("VolumeDriver.Create", `{"Name":"db"}`)
	p.fake.before = func(_ context.Context, call string) error {
		return &volume.Error{Code: volume.CodeBusy, Op: call, Volume: "db", Err: &volume.HeldError{Closing: true, Others: []string{"pid 7 in another mount namespace"}}}
	}
	p.ok("VolumeDriver.Unmount", `{"Name":"db","ID":"one"}`)
	if !strings.Contains(p.logs.String(), "pid 7") {
		t.Errorf("the log does not say who keeps it: %s", p.logs)
	}
}

// F25: remove while mounted.
func TestRemoveWhileHeld(t *testing.T) {
	p := start(t, nil)
	p.ok("VolumeDriver.Create", `{"Name":"db"}`)
	p.ok("VolumeDriver.Mount", `{"Name":"db","ID":"one"}`)
	if got := p.fails("VolumeDriver.Remove", `{"Name":"db"}`); !strings.Contains(got, `held by docker "one"`) {
		t.Errorf("got %q", got)
	}
	if !slices.Contains(p.fake.log(), "remove db") || p.fake.volumes["db"] == nil {
		t.Error("the volume is gone")
	}
}

func TestSocketFile(t *testing.T) {
	p := start(t, nil)
	info, err := os.Stat(p.socket)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v, want 0600", info.Mode())
	}
	if err := p.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-p.served; err != nil {
		t.Errorf("Serve ends with %v", err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(p.socket)); len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
}
