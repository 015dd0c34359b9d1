// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"net/netip"
	"net/url"

	"github.com/voluks/voluks/internal/kek"
)

// Endpoint reads the address of a key server, which a setting has: https, or http where nobody can listen between it and us. Errors are *kek.ConfigError,
// and show no password that somebody put there. forms says what the setting may be.
func Endpoint(at kek.Table, setting, address, forms string) (*url.URL, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return nil, at.Bad(setting, "is not a URL, such as %s", forms)
	case u.User != nil:
		return nil, at.Bad(setting, "holds a user name or password; the other settings say how to log in")
	case u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return nil, at.Bad(setting, "%q is not %s", address, forms)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, at.Bad(setting, "%q has more in it than scheme, host and port", address)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, at.Bad(setting, "%q would send keys over the network in clear; use https", address)
	}
	return u, nil
}

// loopback says of a host that it is this node itself.
func loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
