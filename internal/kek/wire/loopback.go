// SPDX-License-Identifier: Apache-2.0

package wire

import "net/netip"

// Loopback says of the host of a URL that it is this node itself, so that nobody listens between it and us.
func Loopback(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}
