// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/voluks/voluks/internal/volume"
)

// Config is what a Server needs.
type Config struct {
	Volumes Volumes         // what the calls are made on
	Parse   ParseFunc       // reads the options of a Create
	Ready   <-chan struct{} // closed when requests may be served; until then they wait. nil: at once
	Log     *slog.Logger    // nil: nothing is logged
	Limits  Limits          // zero: DefaultLimits
}

// Server serves the plugin protocol.
type Server struct {
	cfg  Config
	http *http.Server
	late sync.WaitGroup // calls that run on after their client was answered
}

// New makes a server. It does nothing before Serve.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Limits == (Limits{}) {
		cfg.Limits = DefaultLimits
	}
	s := &Server{cfg: cfg}
	s.http = &http.Server{
		Handler:           s,
		ConnContext:       withPeer(cfg.Log),
		ReadHeaderTimeout: 10 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Log.Handler(), slog.LevelWarn),
	}
	return s
}

// Serve answers requests on l until Shutdown, after which it returns nil. It closes l.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the Docker plugin: %w", err)
	}
	return nil
}

// Shutdown closes the listener, so that a client finds no one or, with a socket of systemd, waits for the next agent. Requests in flight
// are finished and answered. When ctx ends first, their contexts end, they get Limits.Undo to undo, and the error says so.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		s.http.Close() // ends the contexts of what is in flight
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Limits.Undo)
		defer cancel()
	}
	done := make(chan struct{})
	go func() { s.late.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		err = errors.Join(err, errors.New("calls are still running"))
	}
	if err != nil {
		return fmt.Errorf("stop the Docker plugin: %w", err)
	}
	return nil
}

// ServeHTTP answers one request. Whatever happens, the answer is JSON of the protocol: {"Err": …} for a failure.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, status, err := s.read(w, r)
	if err != nil {
		s.cfg.Log.Warn("request refused", "path", r.URL.Path, "error", err)
		refuse(w, status, err)
		drain(w, r)
		return
	}
	work, answer := s.cfg.Limits.of(r.URL.Path)
	base := r.Context()
	if r.URL.Path == pathUnmount || r.URL.Path == pathRemove {
		base = context.WithoutCancel(base)
	}
	ctx, cancel := context.WithTimeout(base, work)
	op := &operation{ctx: ctx, id: newID(), peer: peerFrom(base)}
	op.log = s.cfg.Log.With("operation", op.id)

	replies := make(chan reply, 1)
	s.late.Add(1)
	go func() {
		defer s.late.Done()
		defer cancel()
		d := &driver{operation: op, volumes: s.cfg.Volumes, parse: s.cfg.Parse, ready: s.cfg.Ready}
		rep, err := roundTrip(d, r.URL.Path, body)
		if err != nil {
			op.log.Error("request failed", "path", r.URL.Path, "error", err)
			rep = failure(http.StatusInternalServerError, fmt.Sprintf("internal error; the log of voluks has it as operation %s", op.id))
		}
		replies <- rep
	}()
	deadline := time.NewTimer(answer)
	defer deadline.Stop()
	var rep reply
	select {
	case rep = <-replies:
	case <-deadline.C:
		if op.abandon() {
			op.log.Error("no end in sight; the client is told so", "path", r.URL.Path, "after", answer)
			refuse(w, http.StatusInternalServerError, &volume.Error{Code: volume.CodeTimeout, Op: strings.TrimPrefix(r.URL.Path, "/VolumeDriver."),
				Err: fmt.Errorf("no answer after %s, likely since a disk or the key provider does not answer; it is undone if it still succeeds (operation %s)", answer, op.id)})
			return
		}
		rep = <-replies
	}
	write(w, rep)
}

// read takes the whole request, with an HTTP status in case of an error. After an error the deadline for reading stays, since both
// net/http and drain go on to read.
func (s *Server) read(w http.ResponseWriter, r *http.Request) ([]byte, int, error) {
	conn := http.NewResponseController(w)
	conn.SetReadDeadline(time.Now().Add(s.cfg.Limits.ReadBody))
	limit := s.cfg.Limits.Body
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	switch {
	case err != nil:
		return nil, http.StatusBadRequest, fmt.Errorf("read the request: %w", err)
	case int64(len(body)) > limit:
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("the request is larger than %d bytes", limit)
	}
	// A read deadline that passes while the call runs would look like a client that hung up.
	conn.SetReadDeadline(time.Time{})
	return body, 0, nil
}

// drain reads on for a while after a refusal, since many clients send their whole request before they look for an answer.
func drain(w http.ResponseWriter, r *http.Request) {
	http.NewResponseController(w).Flush()
	io.Copy(io.Discard, io.LimitReader(r.Body, 256<<20))
}

func refuse(w http.ResponseWriter, status int, err error) { write(w, failure(status, err.Error())) }

func failure(status int, text string) reply {
	body, _ := json.Marshal(struct{ Err string }{text}) // a string always marshals
	return reply{status: status, kind: pluginType, body: append(body, '\n')}
}

// write sends an answer. The library says in plain text that it could not decode a request, and knows redirects for strange paths; Docker
// shows only Err.
func write(w http.ResponseWriter, rep reply) {
	switch {
	case rep.kind == pluginType:
	case rep.status == http.StatusBadRequest:
		rep = failure(rep.status, "bad request: "+string(bytes.TrimSpace(rep.body)))
	default:
		rep = failure(http.StatusNotFound, "no such call")
	}
	w.Header().Set("Content-Type", pluginType)
	w.WriteHeader(rep.status)
	w.Write(rep.body)
}
