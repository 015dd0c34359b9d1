// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/voluks/voluks/internal/kek"
)

// TLS says how a server and this node know each other. The files are in PEM; "" is the usual.
type TLS struct {
	At                            kek.Table // of these settings, for errors
	CAFile                        string    // ca_file: what the server's certificate must come from
	ServerName                    string    // server_name: what it must be for
	ClientCertFile, ClientKeyFile string    // client_cert_file, client_key_file: for a server that asks for one
}

// Config reads the certificates. Errors are *kek.ConfigError.
func (s TLS) Config() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.ServerName}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, s.At.Bad("ca_file", "%w", err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, s.At.Bad("ca_file", "%s has no certificate in PEM", s.CAFile)
		}
	}
	switch {
	case s.ClientCertFile == "" && s.ClientKeyFile == "":
		return cfg, nil
	case s.ClientKeyFile == "":
		return nil, s.At.Bad("client_key_file", "is missing; client_cert_file is of no use without it")
	case s.ClientCertFile == "":
		return nil, s.At.Bad("client_cert_file", "is missing; client_key_file is of no use without it")
	}
	pair, err := tls.LoadX509KeyPair(s.ClientCertFile, s.ClientKeyFile)
	if err != nil {
		return nil, s.At.Bad("client_cert_file", "%w", err)
	}
	cfg.Certificates = []tls.Certificate{pair}
	return cfg, nil
}

// Blame says which setting stands in the way of a connection to the server, which failed with err, or returns nil if none does.
func (s TLS) Blame(ctx context.Context, server *url.URL, err error) error {
	bad := s.blame(err)
	if bad == nil && server.Scheme == "https" && ctx.Err() == nil {
		bad = s.blame(s.greet(ctx, server))
	}
	return bad
}

// greet connects once more, says nothing, and returns what the server has to say to that. In TLS 1.3 a server refuses a client after the client
// believes to be connected, and then it is chance whether net/http sees the refusal or just a connection that breaks.
func (s TLS) greet(ctx context.Context, server *url.URL) error {
	cfg, err := s.Config()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	address := server.Host
	if server.Port() == "" {
		address = net.JoinHostPort(server.Hostname(), "443")
	}
	conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if end, ok := ctx.Deadline(); ok {
		_ = conn.SetReadDeadline(end)
	}
	_, err = conn.Read(make([]byte, 1))
	return err
}

func (s TLS) blame(err error) error {
	var wrongName x509.HostnameError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var alert tls.AlertError
	var op *net.OpError
	switch {
	case errors.As(err, &wrongName):
		return s.At.Bad("server_name", "the server's certificate is for another host: %w", err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return nil // or the clock of this node is not set yet
	case errors.As(err, &unknown), errors.As(err, &invalid):
		return s.At.Bad("ca_file", "the server's certificate is not trusted: %w", err)
	case errors.Is(err, http.ErrSchemeMismatch):
		return s.At.Bad("address", "the server does not speak TLS: %w", err)
	case errors.As(err, &alert), errors.As(err, &op) && op.Op == "remote error":
		return s.At.Bad("client_cert_file", "the server does not accept this client: %w", err)
	}
	return nil
}
