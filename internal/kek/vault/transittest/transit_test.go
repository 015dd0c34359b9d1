// SPDX-License-Identifier: Apache-2.0

package transittest

import (
	"context"
	"errors"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/vault/sdk/logical"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/kek/vault"
)

// server is a Server of a test.
type server struct {
	*Server
	t *testing.T
}

func newServer(t *testing.T) (*server, string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	s, err := New(ctx)
	if err != nil {
		t.Fatal(err)
	}
	listener := httptest.NewServer(s)
	t.Cleanup(listener.Close)
	return &server{s, t}, listener.URL
}

func (s *server) do(operation logical.Operation, path string, data map[string]any) *logical.Response {
	s.t.Helper()
	response, err := s.Do(s.t.Context(), operation, path, data)
	if err != nil {
		s.t.Fatal(err)
	}
	return response
}

var binding = kek.Binding{VolumeUUID: "0b41f68c-4a4c-4d5e-9a4e-0f1d2c3b4a59", Role: "agent"}

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

// keys makes one key of each sort.
func keys(s *server) {
	for name, data := range map[string]map[string]any{
		"plain": {}, "other": {}, "derived": {"derived": true}, "derived2": {"derived": true}, "chacha": {"type": "chacha20-poly1305"},
		"rsa": {"type": "rsa-2048"}, "signing": {"type": "ed25519"},
	} {
		s.do(logical.UpdateOperation, "transit/keys/"+name, data)
	}
}

// F29, F39
func TestConformance(t *testing.T) {
	for _, kind := range []struct {
		key, other string
		derived    bool
	}{{"plain", "other", false}, {"derived", "derived2", true}, {"chacha", "plain", false}, {"rsa", "plain", false}} {
		t.Run(kind.key, func(t *testing.T) {
			s, url := newServer(t)
			keys(s)
			settings := config.Vault{Address: url, Key: kind.key, Derived: kind.derived, TokenFile: write(t, "s.token\n")}
			provider := func(change func(*config.Vault)) func(*testing.T) kek.Provider {
				return func(t *testing.T) kek.Provider {
					s := settings
					change(&s)
					return open(t, s)
				}
			}
			kektest.Run(t, kektest.Target{
				New:     provider(func(*config.Vault) {}),
				Other:   provider(func(s *config.Vault) { s.Key = kind.other }),
				Unbound: !kind.derived,
				Slack:   true,
				Down:    provider(func(s *config.Vault) { s.Address = "http://127.0.0.1:1" }),
				Denied: func(t *testing.T) kek.Provider {
					s.Allow(Token, false)
					t.Cleanup(func() { s.Allow(Token, true) })
					return open(t, settings)
				},
				Advance: func(*testing.T) { s.do(logical.UpdateOperation, "transit/keys/"+kind.key+"/rotate", nil) },
			})
		})
	}
}

func TestAppRole(t *testing.T) {
	s, url := newServer(t)
	keys(s)
	s.do(logical.CreateOperation, "auth/approle/role/voluks", map[string]any{"token_policies": "voluks"})
	role := s.do(logical.ReadOperation, "auth/approle/role/voluks/role-id", nil).Data["role_id"].(string)
	secret := s.do(logical.UpdateOperation, "auth/approle/role/voluks/secret-id", nil).Data["secret_id"].(string)
	settings := config.Vault{Address: url, Key: "plain", AppRole: config.VaultAppRole{RoleID: role, SecretIDFile: write(t, secret)}}
	w, _, _, err := open(t, settings).Generate(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	w.Wipe()

	for name, bad := range map[string]config.VaultAppRole{
		"role":   {RoleID: "no-such-role", SecretIDFile: write(t, secret)},
		"secret": {RoleID: role, SecretIDFile: write(t, "00000000-0000-0000-0000-000000000000")},
	} {
		settings.AppRole = bad
		_, _, _, err := open(t, settings).Generate(t.Context(), binding)
		var setting *kek.ConfigError
		if !errors.Is(err, kek.ErrDenied) || !errors.As(err, &setting) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The words by which causes are told apart are those of the real engine.
func TestCauses(t *testing.T) {
	s, url := newServer(t)
	keys(s)
	settings := func(key string) config.Vault {
		return config.Vault{Address: url, Key: key, TokenFile: write(t, "s.token")}
	}
	for name, tc := range map[string]struct {
		change  func(*config.Vault)
		want    error
		setting string
	}{
		// Unlike here, the core asks for the capability "create" before encrypt makes a key.
		"mount":            {func(s *config.Vault) { s.Mount = "typo" }, kek.ErrNotFound, "kek.vault.mount"},
		"not an engine":    {func(s *config.Vault) { s.Mount = "auth/approle" }, kek.ErrNotFound, "kek.vault.mount"},
		"derived":          {func(s *config.Vault) { s.Key = "derived" }, nil, "kek.vault.derived"},
		"not derived":      {func(s *config.Vault) { s.Derived = true }, nil, "kek.vault.derived"},
		"signing key only": {func(s *config.Vault) { s.Key = "signing" }, nil, "kek.vault.key"},
	} {
		at := settings("plain")
		tc.change(&at)
		_, _, _, err := open(t, at).Generate(t.Context(), binding)
		var setting *kek.ConfigError
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !errors.As(err, &setting) || setting.Setting != tc.setting {
			t.Errorf("%s: %v", name, err)
		}
	}

	p := open(t, settings("plain"))
	w, wrap, ref, err := p.Generate(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	w.Wipe()
	s.do(logical.UpdateOperation, "transit/keys/plain/rotate", nil)
	s.do(logical.UpdateOperation, "transit/keys/plain/config", map[string]any{"min_decryption_version": 2, "deletion_allowed": true})
	if _, err := p.Unwrap(t.Context(), binding, ref, wrap); !errors.Is(err, kek.ErrDisabled) {
		t.Errorf("a version below the minimum: %v", err)
	}
	s.do(logical.DeleteOperation, "transit/keys/plain", nil)
	if _, err := p.Unwrap(t.Context(), binding, ref, wrap); !errors.Is(err, kek.ErrNotFound) {
		t.Errorf("a deleted key: %v", err)
	}
}

// Why the binding is never the context of a key that is not derived, nor associated data.
func TestWhatTransitDoesNotCheck(t *testing.T) {
	s, _ := newServer(t)
	keys(s)
	encrypted := s.do(logical.UpdateOperation, "transit/encrypt/plain", map[string]any{"plaintext": "QQ==", "context": "QQ=="})
	opened := s.do(logical.UpdateOperation, "transit/decrypt/plain", map[string]any{"ciphertext": encrypted.Data["ciphertext"], "context": "Qg=="})
	if opened.Data["plaintext"] != "QQ==" {
		t.Error("context counts on a key that is not derived: the setting derived can go")
	}
}
