// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"log/slog"
	"sync/atomic"
)

// operation is one request on its way: who asks, until when, and under which id the log tells of it.
type operation struct {
	ctx  context.Context
	id   string
	peer peer
	log  *slog.Logger

	state atomic.Int32 // running, then answered or abandoned
}

const (
	running   = int32(iota)
	answered  // the driver finished in time; its answer goes to the client
	abandoned // the client was told that it took too long
)

func newID() string {
	var b [4]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// finish claims the answer for the driver. False means that the client has already been told of a failure, so whatever was done must be undone.
func (o *operation) finish() bool { return o.state.CompareAndSwap(running, answered) }

// abandon claims the answer for the deadline.
func (o *operation) abandon() bool { return o.state.CompareAndSwap(running, abandoned) }
