// SPDX-License-Identifier: Apache-2.0

package vaultapi

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/wire"
)

// loginCauses are what AppRole says where the status alone does not tell. These are its own words; the tests in transittest ask it.
var loginCauses = []kek.Cause{
	{Said: "invalid role or secret id", Setting: "approle", Kind: kek.ErrDenied, Means: "role id or secret id are not valid, or have expired"},
	{Said: "invalid role id", Setting: "approle.role_id", Kind: kek.ErrDenied, Means: "there is no such role"},
	{Said: "invalid secret id", Setting: "approle.secret_id_file", Kind: kek.ErrDenied, Means: "the secret id is not valid, or has expired"},
}

// refused turns an answer that is not a success into an error. The server's words are shown: without them nobody finds a policy that is wrong.
func (c *Client) refused(status int, path string, said []string, isJSON bool) error {
	words := wire.Text([]byte(strings.Join(said, "; ")))
	err := fmt.Errorf("%s: status %d", path, status)
	if words != "" {
		err = fmt.Errorf("%w: %s", err, words)
	}
	for _, causes := range [][]kek.Cause{c.causes, loginCauses} {
		explained := c.at.Explain(err, causes)
		if explained != nil && (status < 500 || errors.Is(explained, kek.ErrWrongKey)) {
			return explained
		}
	}
	switch {
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return fmt.Errorf("%w: %w", kek.ErrDenied, c.at.Bad(c.identity(), "the token has expired, or its policy does not allow this (%w)", err))
	case status >= 500, status == http.StatusTooManyRequests, status == http.StatusPreconditionFailed, status == http.StatusRequestTimeout,
		status == 472, status == 473: // a standby of another cluster
		return fmt.Errorf("%w: %w", kek.ErrUnavailable, err)
	case status == http.StatusNotFound && words == "", status < 400, !isJSON:
		return c.at.Bad("address", "what answers there is no key server (%w)", err)
	}
	return fmt.Errorf("the key server refuses: %w", err)
}

// identity is the setting that says who asks.
func (c *Client) identity() string {
	switch {
	case c.settings.AppRole.RoleID != "":
		return "approle"
	case c.settings.TokenFile != "":
		return "token_file"
	}
	return "address" // an agent, with a token of its own
}
