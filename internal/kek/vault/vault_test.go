// SPDX-License-Identifier: Apache-2.0

package vault_test

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/kek/vault"
	"github.com/voluks/voluks/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func write(t *testing.T, content string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, s config.Vault) kek.Provider {
	t.Helper()
	p, err := vault.New("kek.vault", s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func serve(t *testing.T, f http.Handler) string {
	t.Helper()
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return server.URL
}

// F28, F29, F39
func TestConformance(t *testing.T) {
	for name, kind := range map[string]struct {
		key, other string
		derived    bool
	}{
		"Plain":   {"plain", "other", false},
		"Derived": {"derived", "derived2", true},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			settings := config.Vault{Address: serve(t, f), Key: kind.key, Derived: kind.derived, TokenFile: write(t, "s.token\n")}
			provider := func(change func(*config.Vault)) func(*testing.T) kek.Provider {
				return func(t *testing.T) kek.Provider {
					s := settings
					change(&s)
					return open(t, s)
				}
			}
			while := func(set, reset func()) func(*testing.T) kek.Provider {
				return func(t *testing.T) kek.Provider {
					f.set(set)
					t.Cleanup(func() { f.set(reset) })
					return open(t, settings)
				}
			}
			kektest.Run(t, kektest.Target{
				New:     provider(func(*config.Vault) {}),
				Other:   provider(func(s *config.Vault) { s.Key = kind.other }),
				Unbound: !kind.derived,
				Slack:   true,
				Down:    provider(func(s *config.Vault) { s.Address = "http://127.0.0.1:1" }),
				Slow:    while(func() { f.hang = true }, func() { f.hang = false }),
				Denied:  while(func() { f.tokens["s.token"] = false }, func() { f.tokens["s.token"] = true }),
				Advance: func(*testing.T) { f.set(func() { f.advance("transit/" + kind.key) }) },
			})
		})
	}
}

// Each way to log in opens what another one has wrapped: they are one key.
func TestLogins(t *testing.T) {
	f := newFake()
	f.namespace, f.agent = "team/a", true
	url := serve(t, f)
	socket := filepath.Join(t.TempDir(), "agent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	agent := httptest.NewUnstartedServer(f)
	agent.Listener.Close()
	agent.Listener = listener
	agent.Start()
	t.Cleanup(agent.Close)

	var providers []kek.Provider
	for _, s := range []config.Vault{
		{Address: url, TokenFile: write(t, "s.token")},
		{Address: url + "/", AppRole: config.VaultAppRole{RoleID: "the-role", SecretIDFile: write(t, "the-secret-id\n")}},
		{Address: "unix://" + socket},
	} {
		s.Key, s.Namespace = "plain", "team/a/"
		providers = append(providers, open(t, s))
	}
	b := kek.Binding{VolumeUUID: "0b41f68c-4a4c-4d5e-9a4e-0f1d2c3b4a59", Role: "agent"}
	for _, p := range providers {
		if id := p.Ref().ID; id != "team/a/transit/plain" {
			t.Errorf("id is %q", id)
		}
		w, wrap, ref, err := p.Generate(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Wipe()
		if ref.Version != "1" {
			t.Errorf("version is %q", ref.Version)
		}
		for _, other := range providers {
			got, err := other.Unwrap(t.Context(), b, ref, wrap)
			if err != nil || !got.Equal(w) {
				t.Errorf("unwrap: %v", err)
			}
			got.Wipe()
		}
	}
	if !slices.Contains(f.calls, "/v1/auth/approle/login") {
		t.Error("nobody logged in with AppRole")
	}
}

// A token that was renewed in its file is used without a restart.
func TestTokenIsReadAnew(t *testing.T) {
	f := newFake()
	file := write(t, "s.expired")
	p := open(t, config.Vault{Address: serve(t, f), Key: "plain", TokenFile: file})
	b := kek.Binding{VolumeUUID: "u", Role: "agent"}
	if _, _, _, err := p.Generate(t.Context(), b); err == nil {
		t.Fatal("an expired token was accepted")
	}
	if err := os.WriteFile(file, []byte("s.token"), 0o600); err != nil {
		t.Fatal(err)
	}
	w, _, _, err := p.Generate(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	w.Wipe()
}

// A standby sends its clients to the active server; nothing may send them elsewhere, token and key in hand.
func TestRedirect(t *testing.T) {
	f := newFake()
	active := serve(t, f)
	target := ""
	standby := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, target+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	p := open(t, config.Vault{Address: standby, Key: "plain", TokenFile: write(t, "s.token")})
	b := kek.Binding{VolumeUUID: "u", Role: "agent"}

	target = active
	w, _, _, err := p.Generate(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	w.Wipe()
	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, active+r.URL.Path, http.StatusTemporaryRedirect)
	}))
	t.Cleanup(secure.Close)
	ca := write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})))
	calls := len(f.calls)
	w, _, _, err = open(t, config.Vault{Address: secure.URL, CAFile: ca, Key: "plain", TokenFile: write(t, "s.token")}).Generate(t.Context(), b)
	w.Wipe()
	if err == nil {
		t.Error("sent out of TLS, it worked")
	}
	for name, to := range map[string]string{"in circles": standby, "to another path": active + "/v1/evil",
		"to another node in clear": strings.Replace(active, "127.0.0.1", "0.0.0.0", 1)} { // which Linux takes for this one
		target = to
		if w, _, _, err := p.Generate(t.Context(), b); err == nil {
			w.Wipe()
			t.Errorf("sent %s, it worked", name)
		}
	}
	if len(f.calls) != calls {
		t.Errorf("followed to %v", f.calls[calls:])
	}
}
