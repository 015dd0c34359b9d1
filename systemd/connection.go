// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"errors"
	"fmt"
	"net"

	"github.com/coreos/go-systemd/v22/activation"
)

// Connection takes over the one connection for which systemd started this process, of a socket unit with Accept=yes, and removes the variables that
// announce it.
func Connection() (*net.UnixConn, error) {
	files := activation.Files(true)
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	if len(files) != 1 {
		return nil, fmt.Errorf("take the connection from systemd: there are %d descriptors, not one", len(files))
	}
	// FileConn works on a copy of the descriptor.
	conn, err := net.FileConn(files[0])
	if err != nil {
		return nil, fmt.Errorf("take the connection from systemd: %w", err)
	}
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, errors.New("take the connection from systemd: it is no unix socket")
	}
	return unix, nil
}
