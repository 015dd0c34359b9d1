// SPDX-License-Identifier: Apache-2.0

// Package tangtest runs real tang servers for tests: the tangd of the Debian package tang, one process per connection, as its socket unit does.
package tangtest

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/voluks/voluks/internal/testenv"
)

// Feature is what VOLUKS_REQUIRE calls the packages clevis and tang.
const Feature = "clevis"

const (
	tangd  = "/usr/libexec/tangd"
	keygen = "/usr/libexec/tangd-keygen"
	rotate = "/usr/libexec/tangd-rotate-keys"
)

// Server is a tang server with a key directory of its own.
type Server struct {
	t       *testing.T
	dir     string
	address string
	mu      sync.Mutex
	stop    func()
}

// Need ends the test unless clevis and tang are installed: as skipped, or as failed where they are required.
func Need(t testing.TB) {
	t.Helper()
	for _, program := range []string{tangd, keygen, "clevis-encrypt-tang", "clevis-decrypt-sss", "jose"} {
		if _, err := exec.LookPath(program); err != nil {
			testenv.Missing(t, Feature, "packages clevis and tang: "+err.Error())
		}
	}
}

// New starts a server with new keys.
func New(t *testing.T) *Server {
	t.Helper()
	Need(t)
	s := &Server{t: t, dir: t.TempDir()}
	s.run(keygen, s.dir, "sig", "exc")
	s.Start()
	t.Cleanup(s.Stop)
	return s
}

// URL is its address, which stays the same over Stop and Start.
func (s *Server) URL() string { return "http://" + s.address }

// Thumbprint is that of the signing key that it advertises now; hidden files are keys that it does not.
func (s *Server) Thumbprint() string {
	s.t.Helper()
	keys, err := filepath.Glob(s.dir + "/[^.]*.jwk")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, key := range keys {
		if content, err := os.ReadFile(key); err == nil && strings.Contains(string(content), "ES512") {
			return s.run("jose", "jwk", "thp", "-a", "S256", "-i", key)
		}
	}
	s.t.Fatalf("no signing key among %v", keys)
	return ""
}

// Policy is the configuration for the pin tang.
func (s *Server) Policy() string { return fmt.Sprintf(`{"url":%q,"thp":%q}`, s.URL(), s.Thumbprint()) }

// Rotate makes new keys; the old ones still decrypt. Who encrypts needs the new thumbprint.
func (s *Server) Rotate() {
	s.t.Helper()
	s.run(rotate, "-d", s.dir)
}

// DropOld destroys the keys that were rotated away.
func (s *Server) DropOld() {
	s.t.Helper()
	s.run("sh", "-c", `rm "$1"/.*.jwk`, "sh", s.dir)
}

func (s *Server) run(program string, args ...string) string {
	s.t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v: %s", program, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Start listens, again if it was stopped.
func (s *Server) Start() {
	s.t.Helper()
	address := s.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.address = listener.Addr().String()
	var connections sync.WaitGroup
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Go(func() { s.serve(connection) })
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop = func() {
		listener.Close()
		<-done
		connections.Wait()
	}
}

// Stop ends it; connections are refused then.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

func (s *Server) serve(connection net.Conn) {
	defer connection.Close()
	file, err := connection.(*net.TCPConn).File()
	if err != nil {
		return
	}
	defer file.Close()
	cmd := exec.Command(tangd, s.dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = file, file, io.Discard
	_ = cmd.Run() // its clients see what it answers
}
