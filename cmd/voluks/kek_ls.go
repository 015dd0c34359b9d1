// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/volume"
)

func kekLsCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "ls",
		Usage: "list the key-encryption keys and the volumes that need them",
		Description: `Lists the active key, the previous ones, and every other key that a volume
needs or was once wrapped by, with the volumes that do not open without it.
It reads headers, and asks no key provider.

   voluks kek ls`,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return e.kekLs(c.Context)
		},
	}
}

type kekLsResult struct {
	Keys    []listedKey `json:"keys"`
	Unknown []string    `json:"unknown"` // volumes of which it cannot be told which keys they need
}

type listedKey struct {
	Key    kek.Ref  `json:"key"`
	Role   string   `json:"role"` // active, previous, or "" for one that is not configured
	Needed []string `json:"needed_by"`
}

func (e *env) kekLs(ctx context.Context) error {
	k, err := e.keys()
	if err != nil {
		return err
	}
	uses, err := e.manager(e.quiet(), volume.Defaults{}).KeyUses(ctx)
	if err != nil {
		return err
	}
	all, unknown := whoNeeds(uses, k.KEK)
	result := kekLsResult{Keys: []listedKey{}, Unknown: unknown}
	for _, v := range all {
		role := ""
		switch {
		case v.Key.SameKey(k.KEK.Active.Ref()):
			role = "active"
		case slices.ContainsFunc(k.KEK.Previous, func(p kek.Provider) bool { return p.Ref().SameKey(v.Key) }):
			role = "previous"
		}
		result.Keys = append(result.Keys, listedKey{v.Key, role, v.Needed})
	}
	return e.print(result, func(w io.Writer) {
		var rows [][]string
		for _, key := range result.Keys {
			role := key.Role
			if role == "" {
				role = "not configured"
			}
			rows = append(rows, []string{key.Key.Provider + ":" + key.Key.ID, role, strings.Join(key.Needed, ", ")})
		}
		table(w, []string{"KEY", "ROLE", "NEEDED BY"}, rows)
		if len(unknown) > 0 {
			fmt.Fprintf(w, "it cannot be told which keys are needed by %s\n", strings.Join(unknown, ", "))
		}
	})
}
