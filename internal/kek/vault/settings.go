// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/wire"
)

// Settings say where the transit key is and who asks for it. None of them is secret: secrets are in the files that they name.
type Settings struct {
	// At is the dotted name of these settings in the configuration, for errors: "kek.vault".
	At string
	// Address is https://HOST:PORT, http:// of this node alone, or unix:///PATH of an agent's socket.
	Address string
	// Mount is where the transit engine is mounted. "" is "transit".
	Mount string
	// Key is the name of the transit key.
	Key string
	// Namespace is "" for none.
	Namespace string
	// Derived says that the key was made with derived=true. Then the server itself ties each wrap to volume and role.
	Derived bool
	// TokenFile holds a token. It is read anew for each operation, so that whoever renews it need not tell us.
	TokenFile string
	// AppRole is another way to get a token, or nil. Without both, which only an agent's socket may be, the agent adds its own.
	AppRole *AppRole
	// CAFile holds the certificates, in PEM, that the server's must come from. "" is the system's.
	CAFile string
	// ServerName is what the server's certificate must be for. "" is the host of Address.
	ServerName string
	// ClientCertFile and ClientKeyFile are a certificate, in PEM, that the server asks for, and its key. "" is none.
	ClientCertFile, ClientKeyFile string
}

// AppRole logs in with a role and a secret id.
type AppRole struct {
	// Mount is where the auth method is mounted. "" is "approle".
	Mount string
	// RoleID is public.
	RoleID string
	// SecretIDFile holds the secret id. It is read anew for each operation.
	SecretIDFile string
}

func (s *Settings) bad(setting, format string, args ...any) error {
	return &kek.ConfigError{Setting: s.At + "." + setting, Err: fmt.Errorf(format, args...)}
}

var (
	keyName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	apiPath = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$`)
)

// check completes the settings and judges what can be judged without asking anybody. Each error is a *kek.ConfigError.
func (s *Settings) check() error {
	if s.Mount == "" {
		s.Mount = "transit"
	}
	s.Namespace = strings.Trim(s.Namespace, "/")
	switch {
	case s.Key == "":
		return s.bad("key", "is missing; it is the name of a key of the transit engine")
	case !keyName.MatchString(s.Key):
		return s.bad("key", "%q is not the name of a transit key", s.Key)
	case !apiPath.MatchString(s.Mount):
		return s.bad("mount", "%q is not the path of a mount", s.Mount)
	case s.Namespace != "" && !apiPath.MatchString(s.Namespace):
		return s.bad("namespace", "%q is not a namespace", s.Namespace)
	case s.ClientKeyFile == "" && s.ClientCertFile != "":
		return s.bad("client_key_file", "is missing; client_cert_file is of no use without it")
	case s.ClientCertFile == "" && s.ClientKeyFile != "":
		return s.bad("client_cert_file", "is missing; client_key_file is of no use without it")
	}
	return s.checkLogin()
}

func (s *Settings) checkLogin() error {
	switch role := s.AppRole; {
	case role != nil && s.TokenFile != "":
		return s.bad("approle", "is a second way to log in beside token_file; keep one")
	case role == nil && s.TokenFile == "" && !strings.HasPrefix(s.Address, "unix:"):
		return s.bad("token_file", "is missing; without it, or an approle, only an agent's socket (unix:///path) can be asked")
	case role == nil:
	case role.RoleID == "":
		return s.bad("approle.role_id", "is missing")
	case role.SecretIDFile == "":
		return s.bad("approle.secret_id_file", "is missing; it is the path of a file that holds the secret id")
	default:
		if role.Mount == "" {
			role.Mount = "approle"
		}
		if !apiPath.MatchString(role.Mount) {
			return s.bad("approle.mount", "%q is not the path of a mount", role.Mount)
		}
	}
	return nil
}

// endpoint returns the base of all URLs, and the path of the socket to dial, if it is one.
func (s *Settings) endpoint() (base *url.URL, socket string, err error) {
	if s.Address == "" {
		return nil, "", s.bad("address", "is missing; it is https://HOST:PORT, or unix:///PATH of an agent's socket")
	}
	u, err := url.Parse(s.Address)
	if err != nil {
		return nil, "", s.bad("address", "%q is not a URL", s.Address)
	}
	switch {
	case u.User != nil:
		return nil, "", s.bad("address", "holds a user name or password; use token_file or approle")
	case u.RawQuery != "" || u.Fragment != "":
		return nil, "", s.bad("address", "%q has more in it than scheme, host and port", s.Address)
	case u.Scheme == "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return nil, "", s.bad("address", "%q is not unix:///PATH of a socket, with three slashes", s.Address)
		}
		if s.CAFile+s.ServerName+s.ClientCertFile != "" {
			return nil, "", s.bad("address", "is a socket, over which there is no TLS: remove ca_file, server_name, client_cert_file and client_key_file")
		}
		return &url.URL{Scheme: "http", Host: "agent"}, u.Path, nil
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return nil, "", s.bad("address", "%q is not https://HOST:PORT or unix:///PATH", s.Address)
	case path.Clean("/"+u.Path) != "/":
		return nil, "", s.bad("address", "%q has a path in it; mount and namespace have settings of their own", s.Address)
	case u.Scheme == "http" && !wire.Loopback(u.Hostname()):
		return nil, "", s.bad("address", "%q would send keys over the network in clear; use https", s.Address)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, "", nil
}

// tls reads the certificates once: who replaces them on a running node is served by the next process.
func (s *Settings) tls() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.ServerName}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, s.bad("ca_file", "%w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, s.bad("ca_file", "%s has no certificate in PEM", s.CAFile)
		}
	}
	if s.ClientCertFile != "" {
		pair, err := tls.LoadX509KeyPair(s.ClientCertFile, s.ClientKeyFile)
		if err != nil {
			return nil, s.bad("client_cert_file", "%w", err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// tlsError says which setting stands in the way of a connection, or returns nil if none does.
func (s *Settings) tlsError(err error) error {
	var wrongName x509.HostnameError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var alert tls.AlertError
	var op *net.OpError
	switch {
	case errors.As(err, &wrongName):
		return s.bad("server_name", "the server's certificate is for another host: %w", err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return nil // or the clock of this node is not set yet
	case errors.As(err, &unknown), errors.As(err, &invalid):
		return s.bad("ca_file", "the server's certificate is not trusted: %w", err)
	case errors.Is(err, http.ErrSchemeMismatch):
		return s.bad("address", "the server does not speak TLS: %w", err)
	case errors.As(err, &alert), errors.As(err, &op) && op.Op == "remote error":
		return s.bad("client_cert_file", "the server does not accept this client: %w", err)
	}
	return nil
}
