// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/wire"
	"github.com/voluks/voluks/internal/secret"
)

// maxAnswer bounds what is read of an answer; one of these calls has a few hundred bytes.
const maxAnswer = 32 << 10

// client speaks as much of Vault's HTTP API as three calls need.
type client struct {
	settings Settings
	base     *url.URL
	tls      *tls.Config
	http     *http.Client
}

func newClient(s Settings) (*client, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	base, socket, err := s.endpoint()
	if err != nil {
		return nil, err
	}
	tlsConfig, err := s.tls()
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		TLSClientConfig: tlsConfig.Clone(), // it adds to it
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
	return &client{settings: s, base: base, tls: tlsConfig, http: &http.Client{Transport: transport, CheckRedirect: redirect}}, nil
}

// redirect lets a standby send us to the active server, and nobody send us out of TLS or in circles: the request carries a token and perhaps a key.
func redirect(next *http.Request, via []*http.Request) error {
	first := via[0]
	if len(via) > 2 || next.URL.Scheme != first.URL.Scheme || next.Method != first.Method || next.URL.Path != first.URL.Path {
		return http.ErrUseLastResponse
	}
	return nil
}

// answer is what is used of an answer of the server.
type answer struct {
	Data struct {
		Ciphertext string `json:"ciphertext"`
		Plaintext  []byte `json:"plaintext"`
	} `json:"data"`
	Auth struct {
		Token string `json:"client_token"`
	} `json:"auth"`
	Errors []string `json:"errors"`
}

// post makes one call. The body is borrowed. Whatever of the answer is a key is the caller's to clear.
func (c *client) post(ctx context.Context, token, path string, body *secret.Key) (*answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base.JoinPath("v1", path).String(), nil)
	if err != nil {
		return nil, c.settings.bad("address", "%w", err)
	}
	lent := &loan{key: body}
	defer lent.end()
	req.ContentLength = int64(body.Len())
	req.GetBody = func() (io.ReadCloser, error) { return &loanReader{loan: lent}, nil }
	req.Body = &loanReader{loan: lent}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Vault-Request", "true") // agents may insist on it
	if token != "" {
		req.Header.Set("X-Vault-Token", token)
	}
	if c.settings.Namespace != "" {
		req.Header.Set("X-Vault-Namespace", c.settings.Namespace)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	defer res.Body.Close()
	raw, err := wire.Read(res.Body, maxAnswer)
	if errors.Is(err, wire.ErrTooLong) {
		return nil, c.settings.bad("address", "what answers there is no key server: %w", err)
	}
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	defer raw.Wipe()
	var got answer
	err = json.Unmarshal(raw.Bytes(), &got)
	if res.StatusCode != http.StatusOK {
		return nil, c.refused(res.StatusCode, path, got.Errors, err == nil)
	}
	if err != nil {
		clear(got.Data.Plaintext)
		return nil, c.settings.bad("address", "what answers there is no key server: its answer is not the JSON that was expected")
	}
	return &got, nil
}

// unreachable says why there was no answer.
func (c *client) unreachable(ctx context.Context, err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // the URL is known, and long
	}
	bad := c.settings.tlsError(err)
	if bad == nil && c.base.Scheme == "https" && ctx.Err() == nil {
		bad = c.settings.tlsError(c.greet(ctx))
	}
	if bad != nil {
		return bad
	}
	return fmt.Errorf("%w: %s does not answer: %w", kek.ErrUnavailable, c.settings.Address, err)
}

// greet connects once more, says nothing, and returns what the server has to say to that. In TLS 1.3 a server refuses a client after the client
// believes to be connected, and then it is chance whether net/http sees the refusal or just a connection that breaks.
func (c *client) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	address := c.base.Host
	if c.base.Port() == "" {
		address = net.JoinHostPort(c.base.Hostname(), "443")
	}
	conn, err := (&tls.Dialer{Config: c.tls}).DialContext(ctx, "tcp", address)
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
