// SPDX-License-Identifier: Apache-2.0

// Package transittest runs the conformance suite of key providers against the transit and AppRole engines of Vault itself, over HTTP.
package transittest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	log "github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/sdk/logical"
)

// server is as much of Vault's core as stands between HTTP and an engine: routes, tokens, and what becomes of an engine's errors.
type server struct {
	t      *testing.T
	mounts map[string]*mount

	mu     sync.Mutex
	tokens map[string]bool
}

type mount struct {
	backend logical.Backend
	storage logical.Storage
}

func newServer(t *testing.T) (*server, string) {
	t.Helper()
	s := &server{t: t, mounts: map[string]*mount{}, tokens: map[string]bool{"s.token": true}}
	for path, factory := range map[string]logical.Factory{"transit/": transit.Factory, "auth/approle/": approle.Factory} {
		storage := &logical.InmemStorage{}
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		backend, err := factory(ctx, &logical.BackendConfig{StorageView: storage, Logger: log.NewNullLogger(), BackendUUID: path,
			System: &logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: time.Hour}})
		if err != nil {
			t.Fatal(err)
		}
		if err := backend.Initialize(ctx, &logical.InitializationRequest{Storage: storage}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { backend.Cleanup(context.Background()) })
		s.mounts[path] = &mount{backend, storage}
	}
	listener := httptest.NewServer(s)
	t.Cleanup(listener.Close)
	return s, listener.URL
}

// do asks an engine as an administrator would.
func (s *server) do(operation logical.Operation, path string, data map[string]any) *logical.Response {
	s.t.Helper()
	prefix, m := s.route(path)
	if m == nil {
		s.t.Fatalf("no mount for %s", path)
	}
	response, err := m.backend.HandleRequest(s.t.Context(), &logical.Request{Operation: operation, Path: strings.TrimPrefix(path, prefix), Data: data, Storage: m.storage})
	if err != nil || response.IsError() {
		s.t.Fatalf("%s: %v, %v", path, err, response)
	}
	return response
}

func (s *server) route(path string) (prefix string, m *mount) {
	for prefix, m := range s.mounts {
		if strings.HasPrefix(path, prefix) {
			return prefix, m
		}
	}
	return "", nil
}

func (s *server) allow(token string, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = yes
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	s.mu.Lock()
	allowed := s.tokens[r.Header.Get("X-Vault-Token")]
	s.mu.Unlock()
	var data map[string]any
	prefix, m := s.route(path)
	switch {
	case r.Method != http.MethodPost && r.Method != http.MethodPut:
		fail(w, http.StatusMethodNotAllowed, "unsupported operation")
		return
	case json.NewDecoder(r.Body).Decode(&data) != nil:
		fail(w, http.StatusBadRequest, "failed to parse JSON input")
		return
	case !allowed && !strings.HasSuffix(path, "/login"):
		fail(w, http.StatusForbidden, "permission denied")
		return
	case m == nil:
		fail(w, http.StatusNotFound, `no handler for route "`+path+`". route entry not found.`)
		return
	}
	request := &logical.Request{Operation: logical.UpdateOperation, Path: strings.TrimPrefix(path, prefix), Data: data, Storage: m.storage,
		Connection: &logical.Connection{RemoteAddr: "127.0.0.1"}}
	response, err := m.backend.HandleRequest(r.Context(), request)
	if status, failed := logical.RespondErrorCommon(request, response, err); failed != nil || status != 0 && status != http.StatusOK {
		if failed == nil {
			failed = errors.New("")
		}
		fail(w, status, failed.Error())
		return
	}
	answer := map[string]any{"data": response.Data}
	if response.Auth != nil { // the core makes the token of what an auth method lets in
		s.allow("s.from-approle", true)
		answer["auth"] = map[string]any{"client_token": "s.from-approle"}
	}
	json.NewEncoder(w).Encode(answer)
}

func fail(w http.ResponseWriter, status int, words string) {
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string][]string{"errors": {words}})
}
