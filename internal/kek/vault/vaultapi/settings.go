// SPDX-License-Identifier: Apache-2.0

package vaultapi

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

var apiPath = lateregexp.New(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$`)

// IsPath tells whether a setting can be a part of the path of a URL of the API as it is.
func IsPath(s string) bool { return apiPath().MatchString(s) }

// complete fills in what is left out and judges what can be judged without asking anybody.
func complete(at kek.Table, s *config.Vault) error {
	s.Namespace = strings.Trim(s.Namespace, "/") // which the server takes and ignores
	if s.Namespace != "" && !IsPath(s.Namespace) {
		return at.Bad("namespace", "%q is not a namespace", s.Namespace)
	}
	role := &s.AppRole
	if *role == (config.VaultAppRole{}) {
		if s.TokenFile == "" && !strings.HasPrefix(s.Address, "unix:") {
			return at.Bad("token_file", "is missing; without it, or an approle, only an agent's socket (unix:///path) can be asked")
		}
		return nil
	}
	role.Mount = cmp.Or(role.Mount, "approle")
	switch {
	case s.TokenFile != "":
		return at.Bad("approle", "is a second way to log in beside token_file; keep one")
	case role.RoleID == "":
		return at.Bad("approle.role_id", "is missing")
	case role.SecretIDFile == "":
		return at.Bad("approle.secret_id_file", "is missing; it is the path of a file that holds the secret id")
	case !IsPath(role.Mount):
		return at.Bad("approle.mount", "%q is not the path of a mount", role.Mount)
	}
	return nil
}

// endpoint returns the base of all URLs, and the path of the socket to dial, if it is one.
func endpoint(at kek.Table, s config.Vault) (base *url.URL, socket string, err error) {
	if u, err := url.Parse(s.Address); err == nil && u.Scheme == "unix" {
		switch {
		case u.Host != "" || !filepath.IsAbs(u.Path):
			return nil, "", at.Bad("address", "%q is not unix:///PATH of a socket, with three slashes", s.Address)
		case s.CAFile+s.ServerName+s.ClientCertFile+s.ClientKeyFile != "":
			return nil, "", at.Bad("address", "is a socket, over which there is no TLS: remove ca_file, server_name, client_cert_file and client_key_file")
		}
		return &url.URL{Scheme: "http", Host: "agent"}, u.Path, nil
	}
	u, err := wire.Endpoint(at, "address", s.Address, "https://HOST:PORT or unix:///PATH")
	if err != nil {
		return nil, "", err
	}
	if path.Clean("/"+u.Path) != "/" {
		return nil, "", at.Bad("address", "%q has a path in it; mount and namespace have settings of their own", s.Address)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, "", nil
}
