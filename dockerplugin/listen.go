// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Socket is where Docker and Podman look for the plugin.
const Socket = "/run/docker/plugins/voluks.sock"

// ErrServed says that another process listens on the socket.
var ErrServed = errors.New("another process listens there already")

// maxSocketPath is what sun_path holds, without its final NUL.
const maxSocketPath = 107

// Listen makes the plugin socket: owner root alone, since whoever may talk to it may mount volumes. It creates the parent directory and
// replaces the socket file of an agent that died (F24). Only the holder of the agent lock may call it, or two agents would
// take the socket away from each other. A socket on which someone still listens (systemd, for a service that is not started)
// is ErrServed; a path that is no socket is an error.
func Listen(path string) (net.Listener, error) {
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func listen(path string) (net.Listener, error) {
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path has %d bytes, Linux allows %d for a socket", len(path), maxSocketPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// bind(2) gives the file the mode of the socket, so there is no moment at which others may connect.
		var err error
		if cerr := c.Control(func(fd uintptr) { err = syscall.Fchmod(int(fd), 0o600) }); cerr != nil {
			return cerr
		}
		return err
	}}
	return config.Listen(context.Background(), "unix", path)
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("it is there and is no socket (%s)", info.Mode())
	}
	served, err := listening(path)
	if err != nil {
		return err
	}
	if served {
		return ErrServed
	}
	return os.Remove(path)
}

// listening tells from the kernel's table whether someone listens on a socket of that path.
// Connecting would tell too, but would make systemd start the service behind it.
func listening(path string) (bool, error) {
	f, err := os.Open("/proc/net/unix")
	if err != nil {
		return false, err
	}
	defer f.Close()
	const acceptsConnections = "00010000" // __SO_ACCEPTCON
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// Num RefCount Protocol Flags Type St Inode Path; only the path may hold blanks.
		fields := strings.Fields(lines.Text())
		if len(fields) >= 8 && fields[3] == acceptsConnections && strings.HasSuffix(lines.Text(), " "+path) {
			return true, nil
		}
	}
	return false, lines.Err()
}

// Ping asks the plugin behind a socket for its handshake and returns nil if it answers. It waits for no volume.
func Ping(ctx context.Context, path string) error {
	client := unixClient(path)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/Plugin.Activate", nil)
	if err != nil {
		return fmt.Errorf("ping %s: %w", path, err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ping %s: %w", path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ping %s: %s", path, resp.Status)
	}
	return nil
}

// unixClient sends every request over a new connection to one socket.
func unixClient(path string) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}}
}
