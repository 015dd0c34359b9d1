// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"cmp"
	"net/url"
	"path"
	"path/filepath"
	"strings"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/wire"
	"github.com/voluks/voluks/internal/lateregexp"
)

var (
	keyName = lateregexp.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	apiPath = lateregexp.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$`)
)

// check completes the settings and judges what can be judged without asking anybody. Each error is a *kek.ConfigError.
func check(at kek.Table, s *config.Vault) error {
	s.Mount, s.Namespace = cmp.Or(s.Mount, "transit"), strings.Trim(s.Namespace, "/")
	withRole := s.AppRole != (config.VaultAppRole{})
	if withRole {
		s.AppRole.Mount = cmp.Or(s.AppRole.Mount, "approle")
	}
	switch {
	case !keyName().MatchString(s.Key):
		return at.Bad("key", "%q is not the name of a transit key", s.Key)
	case !apiPath().MatchString(s.Mount):
		return at.Bad("mount", "%q is not the path of a mount", s.Mount)
	case s.Namespace != "" && !apiPath().MatchString(s.Namespace):
		return at.Bad("namespace", "%q is not a namespace", s.Namespace)
	case withRole && s.TokenFile != "":
		return at.Bad("approle", "is a second way to log in beside token_file; keep one")
	case !withRole && s.TokenFile == "" && !strings.HasPrefix(s.Address, "unix:"):
		return at.Bad("token_file", "is missing; without it, or an approle, only an agent's socket (unix:///path) can be asked")
	case withRole && s.AppRole.RoleID == "":
		return at.Bad("approle.role_id", "is missing")
	case withRole && s.AppRole.SecretIDFile == "":
		return at.Bad("approle.secret_id_file", "is missing; it is the path of a file that holds the secret id")
	case withRole && !apiPath().MatchString(s.AppRole.Mount):
		return at.Bad("approle.mount", "%q is not the path of a mount", s.AppRole.Mount)
	}
	return nil
}

// endpoint returns the base of all URLs, and the path of the socket to dial, if it is one.
func endpoint(at kek.Table, s *config.Vault) (base *url.URL, socket string, err error) {
	bad := func(format string, args ...any) (*url.URL, string, error) {
		return nil, "", at.Bad("address", format, args...)
	}
	u, err := url.Parse(s.Address)
	if err != nil {
		return bad("%q is not a URL", s.Address)
	}
	switch {
	case u.User != nil:
		return bad("holds a user name or password; use token_file or approle")
	case u.RawQuery != "" || u.Fragment != "":
		return bad("%q has more in it than scheme, host and port", s.Address)
	case u.Scheme == "unix" && (u.Host != "" || !filepath.IsAbs(u.Path)):
		return bad("%q is not unix:///PATH of a socket, with three slashes", s.Address)
	case u.Scheme == "unix" && s.CAFile+s.ServerName+s.ClientCertFile+s.ClientKeyFile != "":
		return bad("is a socket, over which there is no TLS: remove ca_file, server_name, client_cert_file and client_key_file")
	case u.Scheme == "unix":
		return &url.URL{Scheme: "http", Host: "agent"}, u.Path, nil
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return bad("%q is not https://HOST:PORT or unix:///PATH", s.Address)
	case path.Clean("/"+u.Path) != "/":
		return bad("%q has a path in it; mount and namespace have settings of their own", s.Address)
	case u.Scheme == "http" && !wire.Loopback(u.Hostname()):
		return bad("%q would send keys over the network in clear; use https", s.Address)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, "", nil
}
