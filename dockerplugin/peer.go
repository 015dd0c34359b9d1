// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"context"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
)

// peer is the process at the other end of a connection, as of the moment it connected. Start time and pid together name it for good: a
// dockerd that was restarted is another peer. The zero peer is unknown (the pid of a process in a foreign pid namespace is 0).
type peer struct {
	pid   int
	start uint64
	comm  string
}

type peerKey struct{}

// withPeer is the ConnContext of the server.
func withPeer(log *slog.Logger) func(context.Context, net.Conn) context.Context {
	return func(ctx context.Context, conn net.Conn) context.Context {
		p, err := peerOf(conn)
		if err != nil {
			// The call itself can still be served; its holder just never becomes stale by itself.
			log.Warn("the process that connected is unknown", "error", err)
		}
		return context.WithValue(ctx, peerKey{}, p)
	}
}

func peerFrom(ctx context.Context) peer {
	p, _ := ctx.Value(peerKey{}).(peer)
	return p
}

func peerOf(conn net.Conn) (peer, error) {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return peer{}, nil
	}
	pid, _, err := sys.PeerCred(unix)
	if err != nil || pid <= 0 {
		return peer{}, err
	}
	start, err := sys.ProcessStart(pid)
	if err != nil {
		return peer{}, err
	}
	comm, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return peer{}, err
	}
	return peer{pid: pid, start: start, comm: strings.TrimSpace(string(comm))}, nil
}

// holder records who mounts. Podman is a process that ends right after the call, so its end says nothing about the container.
func (p peer) holder(id string) volume.Holder {
	kind := volume.HolderDocker
	if strings.HasPrefix(p.comm, "podman") {
		kind = volume.HolderPodman
	}
	return volume.Holder{ID: id, Kind: kind, PID: p.pid, Start: p.start, Comm: p.comm}
}
