// SPDX-License-Identifier: Apache-2.0

package keysocket

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
)

// Path is where the socket is, below the runtime directory of voluks.
const Path = "/run/voluks/keys.sock"

// writeTime is how long a peer may take to read 32 bytes.
const writeTime = 10 * time.Second

// Options are what an answer needs.
type Options struct {
	Crypttab string // its path; "": /etc/crypttab
	Socket   string // what a line must name as its key file; "": Path
	Dev      string // the directory of devices; "": /dev
	Owner    int    // the user that peers must be
	// Unlock gives the key of the agent slot of the container on a device, which the caller wipes. If uuid is not "", the container must have it. It may wait
	// for a key service.
	Unlock func(ctx context.Context, device, uuid string) (*secret.Key, error)
	Log    *slog.Logger // tells each request
}

// Errors of Answer that are about the peer.
var (
	ErrNotRoot  = errors.New("keys are for root alone")
	ErrNoVolume = errors.New("the peer does not say which volume it is for, as systemd-cryptsetup does")
	ErrOther    = errors.New("crypttab does not name this socket as the key file of the volume")
)

// Answer serves one connection and closes it: with the key of the volume that the peer names, or without a byte, which systemd-cryptsetup takes for no key. What
// came of it is logged, with peer and volume.
func Answer(ctx context.Context, conn *net.UnixConn, o Options) error {
	defer conn.Close()
	volume, pid, err := o.answer(ctx, conn)
	log := o.Log.With("volume", volume, "peer", pid)
	if err != nil {
		log.Error("no key was given", "error", err)
		return fmt.Errorf("key of %q for process %d: %w", volume, pid, err)
	}
	log.Info("the key of the agent slot was given")
	return nil
}

func (o Options) answer(ctx context.Context, conn *net.UnixConn) (volume string, pid int, err error) {
	pid, uid, err := sys.PeerCred(conn)
	if err != nil {
		return "", 0, err
	}
	volume, named := peerVolume(conn.RemoteAddr())
	switch {
	case uid != o.Owner:
		return volume, pid, fmt.Errorf("%w, not for user %d", ErrNotRoot, uid)
	case !named:
		return "", pid, ErrNoVolume
	}
	line, err := find(orElse(o.Crypttab, "/etc/crypttab"), volume)
	if err != nil {
		return volume, pid, err
	}
	if socket := orElse(o.Socket, Path); line.KeyFile != socket {
		return volume, pid, fmt.Errorf("%w: it names %q, not %s", ErrOther, line.KeyFile, socket)
	}
	device, uuid, err := line.device(orElse(o.Dev, "/dev"))
	if err != nil {
		return volume, pid, err
	}
	key, err := o.Unlock(ctx, device, uuid)
	if err != nil {
		return volume, pid, err
	}
	defer key.Wipe()
	if err := conn.SetWriteDeadline(time.Now().Add(writeTime)); err != nil {
		return volume, pid, err
	}
	if _, err := conn.Write(key.Bytes()); err != nil {
		return volume, pid, fmt.Errorf("hand over the key: %w", err)
	}
	return volume, pid, nil
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// peerVolume reads the name of the peer's end of the connection: NUL RANDOM /cryptsetup/ VOLUME (crypttab(5)). Go writes the NUL as "@".
func peerVolume(addr net.Addr) (string, bool) {
	unix, ok := addr.(*net.UnixAddr)
	if !ok || unix == nil {
		return "", false
	}
	random, volume, found := strings.Cut(unix.Name, "/cryptsetup/")
	if !found || len(random) < 2 || random[0] != '@' || volume == "" || strings.ContainsRune(volume, '/') {
		return "", false
	}
	return volume, true
}
