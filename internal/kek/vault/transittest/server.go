// SPDX-License-Identifier: Apache-2.0

// Package transittest serves the transit and AppRole engines of Vault itself over HTTP, and runs the conformance suite of key providers against them.
package transittest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	log "github.com/hashicorp/go-hclog"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/sdk/logical"
)

// Token is one that the server takes.
const Token = "s.token"

// Server is as much of Vault's core as stands between HTTP and an engine: routes, tokens, and what becomes of an engine's errors.
type Server struct {
	mounts map[string]*mount

	mu     sync.Mutex
	tokens map[string]bool
}

type mount struct {
	backend logical.Backend
	storage logical.Storage
}

// New starts the engines, which live as long as the context. There is no key in them yet.
func New(ctx context.Context) (*Server, error) {
	s := &Server{mounts: map[string]*mount{}, tokens: map[string]bool{Token: true}}
	for path, factory := range map[string]logical.Factory{"transit/": transit.Factory, "auth/approle/": approle.Factory} {
		storage := &logical.InmemStorage{}
		backend, err := factory(ctx, &logical.BackendConfig{StorageView: storage, Logger: log.NewNullLogger(), BackendUUID: path,
			System: &logical.StaticSystemView{DefaultLeaseTTLVal: time.Hour, MaxLeaseTTLVal: time.Hour}})
		if err != nil {
			return nil, err
		}
		if err := backend.Initialize(ctx, &logical.InitializationRequest{Storage: storage}); err != nil {
			return nil, err
		}
		context.AfterFunc(ctx, func() { backend.Cleanup(context.Background()) })
		s.mounts[path] = &mount{backend, storage}
	}
	return s, nil
}

// Do asks an engine as an administrator would.
func (s *Server) Do(ctx context.Context, operation logical.Operation, path string, data map[string]any) (*logical.Response, error) {
	prefix, m := s.route(path)
	if m == nil {
		return nil, fmt.Errorf("no mount for %s", path)
	}
	response, err := m.backend.HandleRequest(ctx, &logical.Request{Operation: operation, Path: strings.TrimPrefix(path, prefix), Data: data, Storage: m.storage})
	if err == nil && response.IsError() {
		err = response.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return response, nil
}

func (s *Server) route(path string) (prefix string, m *mount) {
	for prefix, m := range s.mounts {
		if strings.HasPrefix(path, prefix) {
			return prefix, m
		}
	}
	return "", nil
}

// Allow makes a token valid, or invalid.
func (s *Server) Allow(token string, yes bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = yes
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
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
		s.Allow("s.from-approle", true)
		answer["auth"] = map[string]any{"client_token": "s.from-approle"}
	}
	json.NewEncoder(w).Encode(answer)
}

func fail(w http.ResponseWriter, status int, words string) {
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string][]string{"errors": {words}})
}
