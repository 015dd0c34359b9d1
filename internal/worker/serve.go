// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
)

// Descriptors that a worker is started with.
const (
	requestFD  = 3
	answerFD   = 4
	identityFD = 5 // a memfd with a recovery identity, if the request says so
)

// Main is the worker: it reads one request from descriptor 3, does it with the Manager that open makes, writes one answer to descriptor 4 and
// returns. open gets the recovery identities that the request comes with, mostly none, and is called after the request has come, so a spare works with the configuration of that moment. Main returns nil without having done
// anything if the agent goes away before it sends a request, and an error only if it could not answer. The caller makes SIGTERM cancel ctx, and exits
// the process afterwards: that is what wipes the keys for good.
func Main(ctx context.Context, open func(context.Context, []recovery.Identity) (*volume.Manager, error)) error {
	if err := sys.EndFirst(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err := sys.Harden(); err != nil {
		return err
	}
	signal.Ignore(syscall.SIGPIPE) // its log is a pipe to an agent that may end before it
	for _, fd := range []int{requestFD, answerFD} {
		var st syscall.Stat_t
		if err := syscall.Fstat(fd, &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFIFO {
			return fmt.Errorf("a worker is started by the agent: descriptor %d is no pipe", fd)
		}
		syscall.CloseOnExec(fd) // not for mkfs
	}
	// Non-blocking, so that the wait for a request can be ended.
	if err := syscall.SetNonblock(requestFD, true); err != nil {
		return fmt.Errorf("wait for a request: %w", err)
	}
	in, out := os.NewFile(requestFD, "request"), os.NewFile(answerFD, "answer")
	defer in.Close()
	defer out.Close()
	stop := context.AfterFunc(ctx, func() { in.Close() })
	var r request
	err := json.NewDecoder(in).Decode(&r)
	stop()
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	return json.NewEncoder(out).Encode(serve(ctx, r, open))
}

// serve does one request.
func serve(ctx context.Context, r request, open func(context.Context, []recovery.Identity) (*volume.Manager, error)) answer {
	ctx, cancel := context.WithDeadline(ctx, r.Deadline)
	defer cancel()
	identities, err := lent(r)
	var m *volume.Manager
	if err == nil {
		m, err = open(ctx, identities)
	}
	if err != nil {
		var e *volume.Error
		if !errors.As(err, &e) {
			err = &volume.Error{Code: volume.CodeConfig, Op: r.Op, Volume: r.Name, Err: err}
		}
		return answer{Error: encodeError(err)}
	}
	var a answer
	switch {
	case r.Op == opCreate && r.Spec != nil:
		var info volume.Info
		info, a.Made, err = m.Create(ctx, *r.Spec)
		a.Info = &info
	case r.Op == opMount && r.Holder != nil:
		a.Path, err = m.Mount(ctx, r.Name, *r.Holder)
	case r.Op == opUnmount:
		err = m.Unmount(ctx, r.Name, r.HolderID)
	case r.Op == opRemove:
		err = m.Remove(ctx, r.Name)
	case r.Op == opSettle:
		err = m.Settle(ctx, r.Name)
	case r.Op == opKey:
		err = m.Unlockable(ctx, r.Name)
	case slices.Contains([]string{opRotate, opRewrap, opRevoke, opRekey, opVerify}, r.Op):
		a.Receipt, err = changeKeys(ctx, m, r)
	case r.Op == opErase && r.Removed != nil:
		var receipt volume.EraseReceipt
		receipt, err = m.Erase(ctx, *r.Removed)
		a.Erased = &receipt
	default:
		err = fmt.Errorf("unknown request %q", r.Op)
	}
	a.Error = encodeError(err)
	return a
}

// lent reads the recovery identities that come with a request.
func lent(r request) ([]recovery.Identity, error) {
	if !r.Identity {
		return nil, nil
	}
	syscall.CloseOnExec(identityFD)
	f := os.NewFile(identityFD, "identity")
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read the recovery identity: %w", err)
	}
	// All workers have one description of the file, so each reads from a place of its own.
	text, err := secret.Read(io.NewSectionReader(f, 0, info.Size()), int(info.Size()))
	if err != nil {
		return nil, fmt.Errorf("read the recovery identity: %w", err)
	}
	defer text.Wipe()
	return recovery.ParseIdentities(text)
}
