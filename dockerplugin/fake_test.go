// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/volume"
)

// fakeVolumes keeps volumes and holders in memory. before runs at the start of each call and may block, fail or panic.
type fakeVolumes struct {
	mu      sync.Mutex
	volumes map[string]*volume.Info
	calls   []string
	before  func(ctx context.Context, call string) error
}

func (f *fakeVolumes) enter(ctx context.Context, call, name string) error {
	f.mu.Lock()
	f.calls = append(f.calls, strings.TrimSpace(call+" "+name))
	before := f.before
	f.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(ctx, call)
}

func (f *fakeVolumes) log() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.calls)
}

func failed(code volume.Code, op, name, text string) error {
	return &volume.Error{Code: code, Op: op, Volume: name, Err: errors.New(text)}
}

func (f *fakeVolumes) find(op, name string) (*volume.Info, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := f.volumes[name]; v != nil {
		return v, nil
	}
	return nil, failed(volume.CodeNotFound, op, name, "no such volume")
}

var made = time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)

func (f *fakeVolumes) Create(ctx context.Context, s volume.Spec) (volume.Info, bool, error) {
	if err := f.enter(ctx, "create", s.Name); err != nil {
		return volume.Info{}, false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := f.volumes[s.Name]; v != nil {
		if v.Size != s.Size {
			return *v, false, failed(volume.CodeExists, "create", s.Name, "other options")
		}
		return *v, false, nil
	}
	since := made
	f.volumes[s.Name] = &volume.Info{
		Name: s.Name, UUID: "6c9b8f1e-6f0a-4a0e-9d34-0e8bd1a3c5f7", State: volume.StateReady, Size: s.Size, FS: s.FS, Backing: "image",
		Cipher: "aes-xts-plain64", Created: made, KeySince: &since,
		Slots: []volume.SlotInfo{{Role: "agent", Number: 31, Generation: 1, KEK: "file:c0ffee", Created: made}, {Role: "recovery", Number: 30, Generation: 1, Created: made}},
	}
	return *f.volumes[s.Name], true, nil
}

func (f *fakeVolumes) Mount(ctx context.Context, name string, h volume.Holder) (string, error) {
	if err := f.enter(ctx, "mount", name+" "+h.ID); err != nil {
		return "", err
	}
	v, err := f.find("mount", name)
	if err != nil {
		return "", err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v.State, v.Mountpoint = volume.StateMounted, "/var/lib/voluks/mnt/"+name+"/data"
	if !slices.ContainsFunc(v.Holders, func(o volume.Holder) bool { return o.ID == h.ID }) {
		v.Holders = append(v.Holders, h)
	}
	return v.Mountpoint, nil
}

func (f *fakeVolumes) Unmount(ctx context.Context, name, id string) error {
	if err := f.enter(ctx, "unmount", name+" "+id); err != nil {
		return err
	}
	v, err := f.find("unmount", name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v.Holders = slices.DeleteFunc(v.Holders, func(o volume.Holder) bool { return o.ID == id })
	if len(v.Holders) == 0 {
		v.State, v.Mountpoint = volume.StateReady, ""
	}
	return nil
}

func (f *fakeVolumes) Remove(ctx context.Context, name string) error {
	if err := f.enter(ctx, "remove", name); err != nil {
		return err
	}
	v, err := f.find("remove", name)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(v.Holders) > 0 {
		return &volume.Error{Code: volume.CodeInUse, Op: "remove", Volume: name, Err: &volume.HeldError{Holders: v.Holders}}
	}
	delete(f.volumes, name)
	return nil
}

func (f *fakeVolumes) Path(ctx context.Context, name string) (string, error) {
	if err := f.enter(ctx, "path", name); err != nil {
		return "", err
	}
	v, err := f.find("path", name)
	if err != nil {
		return "", err
	}
	if v.Mountpoint == "" {
		return "", failed(volume.CodeNotMounted, "path", name, "not mounted")
	}
	return v.Mountpoint, nil
}

func (f *fakeVolumes) Inspect(ctx context.Context, name string) (volume.Info, error) {
	if err := f.enter(ctx, "inspect", name); err != nil {
		return volume.Info{}, err
	}
	v, err := f.find("inspect", name)
	if err != nil {
		return volume.Info{}, err
	}
	return *v, nil
}

func (f *fakeVolumes) List(ctx context.Context) ([]volume.Info, error) {
	if err := f.enter(ctx, "list", ""); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []volume.Info
	for _, v := range f.volumes {
		list = append(list, *v)
	}
	slices.SortFunc(list, func(a, b volume.Info) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func parseFake(name string, options map[string]string) (volume.Spec, error) {
	spec := volume.Spec{Name: name, Size: 1 << 30, FS: "ext4"}
	for option, value := range options {
		switch option {
		case "size":
			if _, err := fmt.Sscanf(value, "%dG", &spec.Size); err != nil {
				return spec, &volume.OptionError{Option: option, Value: value, Reason: "write for example 10G"}
			}
			spec.Size <<= 30
		case "fs":
			spec.FS = value
		default:
			return spec, &volume.OptionError{Option: option, Reason: "no such option; did you mean size?"}
		}
	}
	return spec, nil
}

// plugin is a server on a real unix socket with a fake below it.
type plugin struct {
	t      *testing.T
	server *Server
	fake   *fakeVolumes
	socket string
	logs   *lockedBuffer
	served chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t *testing.T, change func(*Config)) *plugin {
	t.Helper()
	p := &plugin{t: t, fake: &fakeVolumes{volumes: map[string]*volume.Info{}}, socket: filepath.Join(t.TempDir(), "p", "voluks.sock"), logs: &lockedBuffer{}, served: make(chan error, 1)}
	cfg := Config{Volumes: p.fake, Parse: parseFake, Log: slog.New(slog.NewTextHandler(p.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if change != nil {
		change(&cfg)
	}
	l, err := Listen(p.socket)
	if err != nil {
		t.Fatal(err)
	}
	p.server = New(cfg)
	go func() { p.served <- p.server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		p.server.Shutdown(ctx)
	})
	return p
}

// send posts a body and returns status and answer.
func (p *plugin) send(ctx context.Context, call, body string) (int, string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://docker/"+call, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	resp, err := unixClient(p.socket).Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	if kind := resp.Header.Get("Content-Type"); kind != pluginType {
		p.t.Errorf("%s answers with %q, want %q", call, kind, pluginType)
	}
	answer, err := io.ReadAll(resp.Body)
	return resp.StatusCode, strings.TrimSpace(string(answer)), err
}

// ok wants success and returns the answer.
func (p *plugin) ok(call, body string) string {
	p.t.Helper()
	status, answer, err := p.send(p.t.Context(), call, body)
	if err != nil || status != http.StatusOK {
		p.t.Fatalf("%s %s: status %d, %s, %v", call, body, status, answer, err)
	}
	return answer
}

// fails wants {"Err": text} and returns the text.
func (p *plugin) fails(call, body string) string {
	p.t.Helper()
	status, answer, err := p.send(p.t.Context(), call, body)
	if err != nil || status < 400 {
		p.t.Fatalf("%s %.80s: status %d, %s, %v, want a failure", call, body, status, answer, err)
	}
	return errText(p.t, answer)
}

func errText(t *testing.T, answer string) string {
	t.Helper()
	var failure struct{ Err string }
	if err := json.Unmarshal([]byte(answer), &failure); err != nil || failure.Err == "" {
		t.Fatalf("the answer is %q (%v), want {\"Err\": …}", answer, err)
	}
	return failure.Err
}
