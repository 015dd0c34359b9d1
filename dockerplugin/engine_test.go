// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

const anonymousName = "0d4b1e5a7f0c4d1e8a9b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f6071"

// engine serves a fake of Docker's API.
func engine(t *testing.T, handler http.HandlerFunc) Engine {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "docker.sock"))
	if err != nil {
		t.Fatal(err)
	}
	server := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler}}
	server.Start()
	t.Cleanup(server.Close)
	return Engine{Socket: l.Addr().String()}
}

func answers(t *testing.T, volumes, containers string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != http.MethodGet:
			t.Errorf("%s %s: the engine is only read", r.Method, r.URL)
		case r.URL.Path == "/volumes" && r.URL.Query().Get("filters") == `{"driver":{"local":true}}`:
			fmt.Fprint(w, volumes)
		case r.URL.Path == "/containers/json" && r.URL.Query().Get("all") == "1":
			fmt.Fprint(w, containers)
		default:
			t.Errorf("unexpected %s", r.URL)
			w.WriteHeader(http.StatusNotFound)
		}
	}
}

// DOCKER.md, plaintext by name: Docker makes a local volume under the name of ours when the plugin is away, and images with VOLUME get local ones.
func TestBypasses(t *testing.T) {
	e := engine(t, answers(t, `{"Volumes":[
		{"Name":"db","Driver":"local"},
		{"Name":"cache","Driver":"local"},
		{"Name":"unused","Driver":"local"},
		{"Name":"oddly-named","Driver":"local","Labels":{"com.docker.volume.anonymous":""}},
		{"Name":"files","Driver":"voluks"},
		{"Name":"`+anonymousName+`","Driver":"local"}],"Warnings":null}`,
		`[
		{"Id":"0123456789abcdef","Names":["/shop-db-1"],"Mounts":[
			{"Type":"volume","Name":"db","Driver":"local","Destination":"/var/lib/postgresql/data"},
			{"Type":"bind","Source":"/etc","Destination":"/etc"},
			{"Type":"volume","Name":"`+anonymousName+`","Driver":"local","Destination":"/tmp/x"}]},
		{"Id":"1123456789abcdef","Names":["/shop-db-2"],"Mounts":[{"Type":"volume","Name":"db","Driver":"local","Destination":"/data"},
			{"Type":"volume","Name":"db","Driver":"local","Destination":"/data2"}]},
		{"Id":"2123456789abcdef","Names":null,"Mounts":[
			{"Type":"volume","Name":"files","Driver":"voluks","Destination":"/files"},
			{"Type":"volume","Name":"oddly-named","Driver":"local","Destination":"/odd"},
			{"Type":"volume","Name":"cache","Driver":"local","Destination":"/cache"}]}]`))
	got, err := e.Bypasses(t.Context(), []string{"db", "files", "other"})
	if err != nil {
		t.Fatal(err)
	}
	want := []Bypass{
		{Kind: Shadow, Volume: "db", Containers: []string{"shop-db-1", "shop-db-2"}},
		{Kind: Local, Volume: "cache", Containers: []string{"2123456789ab"}, Destination: "/cache"},
		{Kind: Anonymous, Volume: "oddly-named", Containers: []string{"2123456789ab"}, Destination: "/odd"},
		{Kind: Anonymous, Volume: anonymousName, Containers: []string{"shop-db-1"}, Destination: "/tmp/x"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%v, want\n%v", got, want)
	}
	for i, text := range []string{
		`Docker has a plaintext local volume named "db" too; containers that name it do not get the encrypted one (in use by shop-db-1, shop-db-2)`,
		`container 2123456789ab keeps /cache on the plaintext local volume "cache"`,
		`container 2123456789ab keeps /odd on an anonymous plaintext volume`,
	} {
		if got[i].String() != text {
			t.Errorf("got  %s\nwant %s", got[i], text)
		}
	}
}

func TestNothingToReport(t *testing.T) {
	e := engine(t, answers(t, `{"Volumes":null}`, `[]`))
	if got, err := e.Bypasses(t.Context(), []string{"db"}); len(got) > 0 || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestNoDocker(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "docker.sock")
	stale := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	for _, socket := range []string{missing, stale} {
		if got, err := (Engine{Socket: socket}).Bypasses(t.Context(), nil); len(got) > 0 || err != nil {
			t.Errorf("%s: got %v, %v, want nothing and no error", socket, got, err)
		}
	}
}

// An engine that is there but cannot be asked is unknown, not clean.
func TestDockerCannotBeAsked(t *testing.T) {
	for name, handler := range map[string]http.HandlerFunc{
		"error":   func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"no json": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"containers 500": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/volumes" {
				fmt.Fprint(w, `{}`)
			} else {
				w.WriteHeader(http.StatusInternalServerError)
			}
		},
	} {
		if _, err := engine(t, handler).Bypasses(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "ask Docker") {
			t.Errorf("%s: got %v, want an error", name, err)
		}
	}
}

func TestDockerHangs(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket) // accepts nothing: connections wait in the backlog
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := (Engine{Socket: socket, Timeout: 30 * time.Millisecond}).Bypasses(t.Context(), nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a deadline", err)
	}
}
