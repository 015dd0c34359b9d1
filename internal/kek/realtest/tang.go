// SPDX-License-Identifier: Apache-2.0

// Package realtest runs the real counterparts of key providers for tests: tang servers and software TPMs, from Debian's packages. They need neither
// root nor a kernel's driver.
package realtest

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

// Feature is what VOLUKS_REQUIRE calls the packages that are needed here.
const Feature = "clevis"

// onDemand ends the test as skipped where nobody demands the real counterparts: they take too long for the fast loop. scripts/test-providers demands
// them.
func onDemand(t testing.TB) {
	t.Helper()
	if !testenv.Required(Feature) {
		t.Skip("takes long; scripts/test-providers runs it")
	}
}

const (
	tangd  = "/usr/libexec/tangd"
	keygen = "/usr/libexec/tangd-keygen"
	rotate = "/usr/libexec/tangd-rotate-keys"
)

// Tang is a tang server with a key directory of its own: tangd, one process per connection, as its socket unit does.
type Tang struct {
	t       *testing.T
	dir     string
	address string
	mu      sync.Mutex
	stop    func()
}

// NeedTang ends the test unless clevis and tang are installed: as failed, since it runs only where they are required, and elsewhere as skipped.
func NeedTang(t testing.TB) {
	t.Helper()
	onDemand(t)
	for _, program := range []string{tangd, keygen, "clevis-encrypt-tang", "clevis-decrypt-sss", "jose"} {
		if _, err := exec.LookPath(program); err != nil {
			testenv.Missing(t, Feature, "packages clevis and tang: "+err.Error())
		}
	}
}

// NewTang starts a server with new keys.
func NewTang(t *testing.T) *Tang {
	t.Helper()
	NeedTang(t)
	s := &Tang{t: t, dir: t.TempDir()}
	s.run(keygen, s.dir, "sig", "exc")
	s.Start()
	t.Cleanup(s.Stop)
	return s
}

// URL is its address, which stays the same over Stop and Start.
func (s *Tang) URL() string { return "http://" + s.address }

// Thumbprint is that of the signing key that it advertises now; hidden files are keys that it does not.
func (s *Tang) Thumbprint() string {
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
func (s *Tang) Policy() string { return fmt.Sprintf(`{"url":%q,"thp":%q}`, s.URL(), s.Thumbprint()) }

// Rotate makes new keys; the old ones still decrypt. Who encrypts needs the new thumbprint.
func (s *Tang) Rotate() {
	s.t.Helper()
	s.run(rotate, "-d", s.dir)
}

// DropOld destroys the keys that were rotated away.
func (s *Tang) DropOld() {
	s.t.Helper()
	s.run("sh", "-c", `rm "$1"/.*.jwk`, "sh", s.dir)
}

func (s *Tang) run(program string, args ...string) string {
	s.t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v: %s", program, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Start listens, again if it was stopped.
func (s *Tang) Start() {
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
func (s *Tang) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
}

// Hang stops it, and takes connections without ever answering, until Stop.
func (s *Tang) Hang() {
	s.t.Helper()
	s.Stop()
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop = func() { listener.Close() }
}

func (s *Tang) serve(connection net.Conn) {
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
