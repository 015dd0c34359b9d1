// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/wire"
)

// What the transit engine and AppRole say where the status alone does not tell. These are the words of the engine itself; the tests in transittest
// ask it.
var causes = []struct {
	words   string
	setting string // that is to blame, or ""
	err     error
	text    string
}{
	{"encryption key not found", "key", kek.ErrNotFound, "there is no such key"},
	{"disallowed by policy", "", kek.ErrDisabled, "the version of the key that wrapped is below its min_decryption_version"},
	{"missing 'context'", "derived", nil, "must be true: the key was made with derived=true"},
	{"no handler for route", "mount", kek.ErrNotFound, "nothing is mounted there"},
	{"unsupported path", "mount", kek.ErrNotFound, "is not a transit engine"},
	{"invalid role or secret id", "approle", kek.ErrDenied, "role id or secret id are not valid, or have expired"},
	{"invalid role id", "approle.role_id", kek.ErrDenied, "there is no such role"},
	{"invalid secret id", "approle.secret_id_file", kek.ErrDenied, "the secret id is not valid, or has expired"},
	{"invalid ciphertext", "", kek.ErrWrongKey, "the server cannot open it"},
	{"message authentication failed", "", kek.ErrWrongKey, "the server cannot open it"},
	{"decryption error", "", kek.ErrWrongKey, "the server cannot open it"}, // of an RSA key, and with status 500
	{"not support decryption", "key", nil, "is a key that cannot encrypt"},
	{"not supported for key type", "key", nil, "is a key that cannot encrypt"},
}

// refused turns an answer that is not a success into an error. The server's words are shown: without them nobody finds a policy that is wrong.
func (c *client) refused(status int, path string, said []string, isJSON bool) error {
	words := wire.Text([]byte(strings.Join(said, "; ")))
	detail := fmt.Sprintf("%s: status %d", path, status)
	if words != "" {
		detail += ": " + words
	}
	for _, cause := range causes {
		if !strings.Contains(strings.ToLower(words), cause.words) || status >= 500 && cause.err != kek.ErrWrongKey {
			continue
		}
		err := fmt.Errorf("%s (%s)", cause.text, detail)
		if cause.setting != "" {
			err = c.at.Bad(cause.setting, "%w", err)
		}
		if cause.err != nil {
			err = fmt.Errorf("%w: %w", cause.err, err)
		}
		return err
	}
	switch {
	case status == http.StatusForbidden, status == http.StatusUnauthorized:
		return fmt.Errorf("%w: %w", kek.ErrDenied, c.at.Bad(c.identity(), "the token has expired, or its policy does not allow this (%s)", detail))
	case status >= 500, status == http.StatusTooManyRequests, status == http.StatusPreconditionFailed, status == http.StatusRequestTimeout,
		status == 472, status == 473: // a standby of another cluster
		return fmt.Errorf("%w: %s", kek.ErrUnavailable, detail)
	case status == http.StatusNotFound && words == "", status < 400, !isJSON:
		return c.at.Bad("address", "what answers there is no key server (%s)", detail)
	}
	return fmt.Errorf("the key server refuses: %s", detail)
}

// identity is the setting that says who asks.
func (c *client) identity() string {
	switch {
	case c.settings.AppRole.RoleID != "":
		return "approle"
	case c.settings.TokenFile != "":
		return "token_file"
	}
	return "address" // an agent, with a token of its own
}
