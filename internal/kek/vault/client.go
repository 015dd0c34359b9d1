// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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

// client speaks as much of Vault's HTTP API as the calls of three operations and a login need.
type client struct {
	at       kek.Table
	settings config.Vault
	base     *url.URL
	tls      wire.TLS
	http     *http.Client
}

func newClient(at kek.Table, s config.Vault) (*client, error) {
	if err := check(at, &s); err != nil {
		return nil, err
	}
	base, socket, err := endpoint(at, &s)
	if err != nil {
		return nil, err
	}
	c := &client{at: at, settings: s, base: base, tls: wire.TLS{At: at, CAFile: s.CAFile, ServerName: s.ServerName, ClientCertFile: s.ClientCertFile, ClientKeyFile: s.ClientKeyFile}}
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

// redirect lets a standby send us to the active server, and nobody send us out of TLS or in circles: the request carries a token and perhaps a key.
func redirect(next *http.Request, via []*http.Request) error {
	first := via[0]
	if len(via) > 2 || next.URL.Scheme != first.URL.Scheme || next.Method != first.Method || next.URL.Path != first.URL.Path {
		return http.ErrUseLastResponse
	}
	return nil
}

// login returns the token for one operation, or "" if an agent adds it. Of all that is secret here the token alone passes through a string. It is not
// kept, so that a token that was revoked or renewed is noticed at once.
func (c *client) login(ctx context.Context) (string, error) {
	role := c.settings.AppRole
	if role == (config.VaultAppRole{}) {
		if c.settings.TokenFile == "" {
			return "", nil
		}
		return c.credential("token_file", c.settings.TokenFile)
	}
	secretID, err := c.credential("approle.secret_id_file", role.SecretIDFile)
	if err != nil {
		return "", err
	}
	body, err := wire.Object(map[string]string{"role_id": role.RoleID, "secret_id": secretID}, "", nil)
	if err != nil {
		return "", err
	}
	defer body.Wipe()
	got, err := c.post(ctx, "", "auth/"+role.Mount+"/login", body)
	if err != nil {
		return "", fmt.Errorf("log in: %w", err)
	}
	if got.Auth.Token == "" {
		return "", c.at.Bad("approle.mount", "is no place to log in: its answer has no token")
	}
	return got.Auth.Token, nil
}

func (c *client) credential(setting, path string) (string, error) {
	text, err := wire.Line(path)
	if err != nil {
		err = c.at.Bad(setting, "%w", err)
	}
	if errors.Is(err, fs.ErrNotExist) { // at boot, whoever writes it may come later
		err = fmt.Errorf("%w: %w", kek.ErrUnavailable, err)
	}
	return text, err
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
	var got answer
	err = json.Unmarshal(raw.Bytes(), &got)
	if res.StatusCode != http.StatusOK {
		return nil, c.refused(res.StatusCode, path, got.Errors, err == nil)
	}
	if err != nil {
		clear(got.Data.Plaintext)
		return nil, c.at.Bad("address", "what answers there is no key server: its answer is not the JSON that was expected")
	}
	return &got, nil
}

// unreachable says why there was no answer.
func (c *client) unreachable(ctx context.Context, err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // the URL is known, and long
	}
	if bad := c.tls.Blame(ctx, c.base, err); bad != nil {
		return bad
	}
	return fmt.Errorf("%w: %s does not answer: %w", kek.ErrUnavailable, c.settings.Address, err)
}
