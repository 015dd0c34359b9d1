// SPDX-License-Identifier: Apache-2.0

package vaultapi

import (
	"context"
	"fmt"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek/wire"
)

// Login returns the token for one operation, or "" if an agent adds it. Of all that is secret here the token alone passes through a string. It is not
// kept, so that a token that was revoked or renewed is noticed at once.
func (c *Client) Login(ctx context.Context) (token string, err error) {
	role := c.settings.AppRole
	if role == (config.VaultAppRole{}) {
		if c.settings.TokenFile == "" {
			return "", nil
		}
		return wire.Line(c.at, "token_file", c.settings.TokenFile)
	}
	secretID, err := wire.Line(c.at, "approle.secret_id_file", role.SecretIDFile)
	if err != nil {
		return "", err
	}
	body, err := wire.Object(map[string]string{"role_id": role.RoleID, "secret_id": secretID}, "", nil)
	if err != nil {
		return "", err
	}
	defer body.Wipe()
	got, err := c.write(ctx, "", "auth/"+role.Mount+"/login", body, nil)
	if err != nil {
		return "", fmt.Errorf("log in: %w", err)
	}
	if got.Auth.Token == "" {
		return "", c.at.Bad("approle.mount", "is no place to log in: its answer has no token")
	}
	return got.Auth.Token, nil
}
