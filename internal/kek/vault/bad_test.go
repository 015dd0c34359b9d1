// SPDX-License-Identifier: Apache-2.0

package vault_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/vault"
)

var binding = kek.Binding{VolumeUUID: "0b41f68c-4a4c-4d5e-9a4e-0f1d2c3b4a59", Role: "agent"}

// blames fails the test unless err is want, if that is not nil, and names the setting, if that is not "".
func blames(t *testing.T, err, want error, setting string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	if want != nil && !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
	if setting == "" {
		return
	}
	var bad *kek.ConfigError
	if !errors.As(err, &bad) || bad.Setting != setting {
		t.Errorf("got %v, want %s to be named", err, setting)
	}
	if want == nil && errors.Is(err, kek.ErrUnavailable) {
		t.Errorf("%v would be tried again", err)
	}
}

func TestBadSettings(t *testing.T) {
	role := func(id, file, mount string) config.VaultAppRole {
		return config.VaultAppRole{RoleID: id, SecretIDFile: file, Mount: mount}
	}
	rubbish := write(t, "rubbish")
	for name, tc := range map[string]struct {
		change  func(*config.Vault)
		setting string
	}{
		"no address":        {func(s *config.Vault) { s.Address = "" }, "address"},
		"no scheme":         {func(s *config.Vault) { s.Address = "vault:8200" }, "address"},
		"not a URL":         {func(s *config.Vault) { s.Address = "https://%zz" }, "address"},
		"other scheme":      {func(s *config.Vault) { s.Address = "ftp://vault" }, "address"},
		"clear text":        {func(s *config.Vault) { s.Address = "http://vault.example:8200" }, "address"},
		"with path":         {func(s *config.Vault) { s.Address = "https://vault/v1/transit" }, "address"},
		"with query":        {func(s *config.Vault) { s.Address = "https://vault?ns=x" }, "address"},
		"with password":     {func(s *config.Vault) { s.Address = "https://me:hunter2@vault" }, "address"},
		"two slashes":       {func(s *config.Vault) { s.Address = "unix://run/agent.sock" }, "address"},
		"TLS over a socket": {func(s *config.Vault) { s.Address, s.CAFile = "unix:///agent.sock", rubbish }, "address"},
		"no key":            {func(s *config.Vault) { s.Key = "" }, "key"},
		"key with path":     {func(s *config.Vault) { s.Key = "../sys/seal" }, "key"},
		"mount with dots":   {func(s *config.Vault) { s.Mount = "transit/../sys" }, "mount"},
		"mount with slash":  {func(s *config.Vault) { s.Mount = "/transit" }, "mount"},
		"namespace":         {func(s *config.Vault) { s.Namespace = "a\r\nb" }, "namespace"},
		"nobody logs in":    {func(s *config.Vault) { s.TokenFile = "" }, "token_file"},
		"both log in":       {func(s *config.Vault) { s.AppRole = role("r", "f", "") }, "approle"},
		"no role":           {func(s *config.Vault) { s.TokenFile, s.AppRole = "", role("", "f", "") }, "approle.role_id"},
		"no secret id":      {func(s *config.Vault) { s.TokenFile, s.AppRole = "", role("r", "", "") }, "approle.secret_id_file"},
		"approle mount":     {func(s *config.Vault) { s.TokenFile, s.AppRole = "", role("r", "f", "a b") }, "approle.mount"},
		"no such CA":        {func(s *config.Vault) { s.CAFile = "/nonexistent" }, "ca_file"},
		"CA is rubbish":     {func(s *config.Vault) { s.CAFile = rubbish }, "ca_file"},
		"cert without key":  {func(s *config.Vault) { s.ClientCertFile = rubbish }, "client_key_file"},
		"key without cert":  {func(s *config.Vault) { s.ClientKeyFile = rubbish }, "client_cert_file"},
		"cert is rubbish":   {func(s *config.Vault) { s.ClientKeyFile, s.ClientCertFile = rubbish, rubbish }, "client_cert_file"},
	} {
		t.Run(name, func(t *testing.T) {
			s := config.Vault{Address: "https://vault:8200", Key: "k", TokenFile: rubbish}
			tc.change(&s)
			_, err := vault.New("previous[1].vault", s)
			blames(t, err, nil, "previous[1].vault."+tc.setting)
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v shows the password", err)
			}
		})
	}
}

// What only the server can know.
func TestRefusals(t *testing.T) {
	noToken := write(t, "s.expired")
	readable := write(t, "s.token")
	if err := os.Chmod(readable, 0o644); err != nil {
		t.Fatal(err)
	}
	wrongRole := config.VaultAppRole{RoleID: "the-role", SecretIDFile: write(t, "expired")}
	for name, tc := range map[string]struct {
		settings func(*config.Vault)
		server   func(*fake)
		want     error
		setting  string
	}{
		"key that does not exist":        {settings: func(s *config.Vault) { s.Key = "typo" }, want: kek.ErrNotFound, setting: "key"},
		"mount that does not exist":      {settings: func(s *config.Vault) { s.Mount = "typo" }, want: kek.ErrNotFound, setting: "mount"},
		"token expired":                  {settings: func(s *config.Vault) { s.TokenFile = noToken }, want: kek.ErrDenied, setting: "token_file"},
		"secret id expired":              {settings: func(s *config.Vault) { s.TokenFile, s.AppRole = "", wrongRole }, want: kek.ErrDenied, setting: "approle"},
		"token file not written yet":     {settings: func(s *config.Vault) { s.TokenFile = "/nonexistent" }, want: kek.ErrUnavailable, setting: "token_file"},
		"token file for everybody":       {settings: func(s *config.Vault) { s.TokenFile = readable }, setting: "token_file"},
		"token file of two lines":        {settings: func(s *config.Vault) { s.TokenFile = write(t, "a\nb") }, setting: "token_file"},
		"token file empty":               {settings: func(s *config.Vault) { s.TokenFile = write(t, "\n") }, setting: "token_file"},
		"token file too long":            {settings: func(s *config.Vault) { s.TokenFile = write(t, strings.Repeat("x", 5000)) }, setting: "token_file"},
		"token file is a directory":      {settings: func(s *config.Vault) { s.TokenFile = "/" }, setting: "token_file"},
		"derived key, said to be plain":  {settings: func(s *config.Vault) { s.Key = "derived" }, setting: "derived"},
		"plain key, said to be derived":  {settings: func(s *config.Vault) { s.Derived = true }, setting: "derived"},
		"sealed":                         {server: func(f *fake) { f.status = 503 }, want: kek.ErrUnavailable},
		"standby without forwarding":     {server: func(f *fake) { f.status = 473 }, want: kek.ErrUnavailable},
		"throttled":                      {server: func(f *fake) { f.status = 429 }, want: kek.ErrUnavailable},
		"broken":                         {server: func(f *fake) { f.status = 500 }, want: kek.ErrUnavailable},
		"another kind of server":         {server: func(f *fake) { f.answer = []byte("<html>welcome</html>") }, setting: "address"},
		"another kind of server, JSON":   {server: func(f *fake) { f.answer = []byte(`{"data":{}}`) }, setting: "mount"},
		"another kind of server, 404":    {server: func(f *fake) { f.status = 404 }, setting: "address"},
		"another kind of server, floods": {server: func(f *fake) { f.answer = make([]byte, 1<<20) }, setting: "address"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake()
			if tc.server != nil {
				tc.server(f)
			}
			s := config.Vault{Address: serve(t, f), Key: "plain", TokenFile: write(t, "s.token")}
			if tc.settings != nil {
				tc.settings(&s)
			}
			setting := tc.setting
			if setting != "" {
				setting = "kek.vault." + setting
			}
			w, _, _, err := open(t, s).Generate(t.Context(), binding)
			w.Wipe()
			blames(t, err, tc.want, setting)
		})
	}
}

// A key whose old versions were taken out of use.
func TestDisabledVersion(t *testing.T) {
	f := newFake()
	p := open(t, config.Vault{Address: serve(t, f), Key: "plain", TokenFile: write(t, "s.token")})
	w, wrap, ref, err := p.Generate(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	w.Wipe()
	f.set(func() { f.advance("transit/plain"); f.keys["transit/plain"].min = 2 })
	_, err = p.Unwrap(t.Context(), binding, ref, wrap)
	blames(t, err, kek.ErrDisabled, "")
}

// F28: a server that returns something else than was wrapped.
func TestWrongLength(t *testing.T) {
	f := newFake()
	p := open(t, config.Vault{Address: serve(t, f), Key: "plain", TokenFile: write(t, "s.token")})
	w, wrap, ref, err := p.Generate(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	w.Wipe()
	for _, plaintext := range []string{"", "AA==", strings.Repeat("A", 40) + "AA==", strings.Repeat("A", 44)} { // 0, 1, 31, 33 bytes
		f.set(func() { f.answer = []byte(`{"data":{"plaintext":"` + plaintext + `"}}`) })
		got, err := p.Unwrap(t.Context(), binding, ref, wrap)
		if got != nil || !errors.Is(err, kek.ErrWrongKey) {
			t.Errorf("%q: got %v, %v", plaintext, got, err)
		}
		blames(t, err, kek.ErrWrongKey, "kek.vault.key")
	}
}

// The server's words reach people, but neither a terminal's escapes nor what could be a key.
func TestServersWords(t *testing.T) {
	p := open(t, config.Vault{Key: "plain", TokenFile: write(t, "s.token"),
		Address: serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			refuse(w, 418, "teapot\x1b[2J "+strings.Repeat("QUJD", 11))
		}))})
	_, _, _, err := p.Generate(t.Context(), binding)
	if err == nil || !strings.Contains(err.Error(), "status 418: teapot [2J [hidden]") {
		t.Errorf("got %v", err)
	}
}

func TestTLS(t *testing.T) {
	f := newFake()
	server := httptest.NewUnstartedServer(f)
	server.Config.ErrorLog = quiet()
	server.StartTLS()
	t.Cleanup(server.Close)
	strict := httptest.NewUnstartedServer(f)
	strict.Config.ErrorLog = quiet()
	clientCert, clientKey, pool := client(t)
	strict.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	strict.StartTLS()
	t.Cleanup(strict.Close)
	plain := serve(t, f)
	ca := write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})))
	otherCA := clientCert

	for name, tc := range map[string]struct {
		address, setting string
		change           func(*config.Vault)
	}{
		"trusted":                {server.URL, "", func(*config.Vault) {}},
		"not trusted":            {server.URL, "ca_file", func(s *config.Vault) { s.CAFile = "" }},
		"signed by another CA":   {server.URL, "ca_file", func(s *config.Vault) { s.CAFile = otherCA }},
		"server name":            {server.URL, "", func(s *config.Vault) { s.ServerName = "example.com" }},
		"wrong server name":      {server.URL, "server_name", func(s *config.Vault) { s.ServerName = "vault.internal" }},
		"no TLS there":           {strings.Replace(plain, "http:", "https:", 1), "address", func(*config.Vault) {}},
		"client certificate":     {strict.URL, "", func(s *config.Vault) { s.ClientCertFile, s.ClientKeyFile = clientCert, clientKey }},
		"no client certificate":  {strict.URL, "client_cert_file", func(*config.Vault) {}},
		"key of no certificates": {server.URL, "client_cert_file", func(s *config.Vault) { s.ClientCertFile, s.ClientKeyFile = ca, clientKey }},
	} {
		t.Run(name, func(t *testing.T) {
			s := config.Vault{Address: tc.address, Key: "plain", TokenFile: write(t, "s.token"), CAFile: ca}
			tc.change(&s)
			p, err := vault.New("kek.vault", s)
			if err == nil {
				w, _, _, failed := p.Generate(t.Context(), binding)
				w.Wipe()
				err = failed
			}
			if tc.setting == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			blames(t, err, nil, "kek.vault."+tc.setting)
		})
	}
}

// client makes a self-signed client certificate.
func client(t *testing.T) (certFile, keyFile string, pool *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pool = x509.NewCertPool()
	pool.AddCert(cert)
	return write(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		write(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))), pool
}
