// SPDX-License-Identifier: Apache-2.0

// Package vaultapi is a client of the HTTP API that HashiCorp Vault and OpenBao have in common: it logs in, writes to a path, and says what is wrong when
// that fails. Keys go through locked memory as far as net/http and crypto/tls allow, which those who publish a client library for it do not try.
package vaultapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/wire"
	"github.com/voluks/voluks/internal/secret"
)

// maxAnswer bounds what is read of an answer; one of these calls has a few hundred bytes.
const maxAnswer = 32 << 10

// Client asks one server. It is safe for concurrent use.
type Client struct {
	at       kek.Table
	settings config.Vault
	causes   []kek.Cause
	base     *url.URL
	tls      wire.TLS
	http     *http.Client
}

// New judges what the settings say of the server and of the login, and reads the certificates; it does not ask the server. causes are what the words of
// the engine mean that is going to be asked. Errors are *kek.ConfigError.
func New(at kek.Table, s config.Vault, causes []kek.Cause) (*Client, error) {
	if err := complete(at, &s); err != nil {
		return nil, err
	}
	base, socket, err := endpoint(at, s)
	if err != nil {
		return nil, err
	}
	c := &Client{at: at, settings: s, causes: causes, base: base,
		tls: wire.TLS{At: at, CAFile: s.CAFile, ServerName: s.ServerName, ClientCertFile: s.ClientCertFile, ClientKeyFile: s.ClientKeyFile}}
	// Once: who replaces the certificates on a running node is served by the next process.
	tlsConfig, err := c.tls.Config()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		TLSClientConfig: tlsConfig,
		// A call or two per operation: nothing is worth being kept open, with keys in its buffers.
		DisableKeepAlives: true,
		ForceAttemptHTTP2: true,
	}
	if socket != "" {
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
	}
	c.http = &http.Client{Transport: transport, CheckRedirect: redirect}
	return c, nil
}

// Namespace is where all paths are, "" for the root: the setting, in its one form.
func (c *Client) Namespace() string { return c.settings.Namespace }

// redirect lets a standby send us to the active server, and nobody send us out of TLS, from this node to another without it, or in circles: the request
// carries a token and perhaps a key.
func redirect(next *http.Request, via []*http.Request) error {
	first := via[0]
	if _, err := wire.Endpoint("", "", next.URL.String(), ""); err != nil {
		return http.ErrUseLastResponse
	}
	if len(via) > 2 || next.URL.Scheme != first.URL.Scheme || next.Method != first.Method || next.URL.Path != first.URL.Path {
		return http.ErrUseLastResponse
	}
	return nil
}

// Write makes one call, with a JSON object for a body, which is borrowed, and decodes the data of the answer into data, a pointer. Whatever of that is a
// key is the caller's to clear, also after an error. Token is what Login has returned.
func (c *Client) Write(ctx context.Context, token, path string, body *secret.Key, data any) error {
	_, err := c.write(ctx, token, path, body, data)
	return err
}

// envelope is what every answer comes in.
type envelope struct {
	Data any `json:"data"`
	Auth struct {
		Token string `json:"client_token"`
	} `json:"auth"`
	Errors []string `json:"errors"`
}

func (c *Client) write(ctx context.Context, token, path string, body *secret.Key, data any) (*envelope, error) {
	lent := wire.Lend(body)
	defer lent.End()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath("v1", path).String(), lent.Body())
	if err != nil {
		return nil, c.at.Bad("address", "%w", err)
	}
	req.ContentLength = int64(body.Len())
	req.GetBody = func() (io.ReadCloser, error) { return lent.Body(), nil }
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Vault-Request", "true") // agents may insist on it
	for header, value := range map[string]string{"X-Vault-Token": token, "X-Vault-Namespace": c.settings.Namespace} {
		if value != "" {
			req.Header.Set(header, value)
		}
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	defer res.Body.Close()
	raw, err := wire.Read(res.Body, maxAnswer)
	if errors.Is(err, wire.ErrTooLong) {
		return nil, c.at.Bad("address", "what answers there is no key server: %w", err)
	}
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	defer raw.Wipe()
	got := &envelope{Data: data}
	err = json.Unmarshal(raw.Bytes(), got)
	if res.StatusCode != http.StatusOK {
		return nil, c.refused(res.StatusCode, path, got.Errors, err == nil)
	}
	if err != nil {
		return nil, c.at.Bad("address", "what answers there is no key server: its answer is not the JSON that was expected")
	}
	return got, nil
}

// unreachable says why there was no answer.
func (c *Client) unreachable(ctx context.Context, err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // the URL is known, and long
	}
	if bad := c.tls.Blame(ctx, c.base, err); bad != nil {
		return bad
	}
	return fmt.Errorf("%w: %s does not answer: %w", kek.ErrUnavailable, c.settings.Address, err)
}
