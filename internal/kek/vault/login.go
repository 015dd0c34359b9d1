// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/wire"
)

const maxCredential = 4 << 10

// login returns the token for one operation, or "" if an agent adds it. net/http takes headers as strings, which cannot be wiped: of all that is
// secret here the token alone passes through one. It is not kept, so that a token that was revoked or renewed is noticed at once.
func (c *client) login(ctx context.Context) (string, error) {
	s := &c.settings
	if s.AppRole == nil {
		if s.TokenFile == "" {
			return "", nil
		}
		return s.credential("token_file", s.TokenFile)
	}
	secretID, err := s.credential("approle.secret_id_file", s.AppRole.SecretIDFile)
	if err != nil {
		return "", err
	}
	body, err := wire.Object(map[string]string{"role_id": s.AppRole.RoleID, "secret_id": secretID}, "", nil)
	if err != nil {
		return "", err
	}
	defer body.Wipe()
	got, err := c.post(ctx, "", "auth/"+s.AppRole.Mount+"/login", body)
	if err != nil {
		return "", fmt.Errorf("log in: %w", err)
	}
	if got.Auth.Token == "" {
		return "", s.bad("approle.mount", "is no place to log in: its answer has no token")
	}
	return got.Auth.Token, nil
}

// credential reads a token or a secret id, without the newline that editors add.
func (s *Settings) credential(setting, path string) (string, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		// At boot, whoever writes it may come later.
		return "", fmt.Errorf("%w: %w", kek.ErrUnavailable, s.bad(setting, "%w", err))
	}
	if err != nil {
		return "", s.bad(setting, "%w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return "", s.bad(setting, "%w", err)
	case !info.Mode().IsRegular():
		return "", s.bad(setting, "%s is not a regular file", path)
	case info.Mode().Perm()&0o007 != 0:
		return "", s.bad(setting, "%s is open to everybody on this node (mode %04o); make it 0600", path, info.Mode().Perm())
	}
	raw, err := wire.Read(f, maxCredential)
	if err != nil {
		return "", s.bad(setting, "%s: %w", path, err)
	}
	defer raw.Wipe()
	text := strings.TrimSpace(string(raw.Bytes()))
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", s.bad(setting, "%s does not hold one line of text", path)
	}
	return text, nil
}
