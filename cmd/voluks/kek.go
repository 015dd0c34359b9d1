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
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/worker"
	"github.com/voluks/voluks/keyslot"
)

func kekCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "kek",
		Usage: "the key-encryption keys of the key providers",
		Description: `The key of the active provider ([kek] in the configuration) wraps what opens
the agent slot of each volume; those of [[previous]] only unwrap.`,
		Subcommands: []*cli.Command{kekLsCommand(e), kekTestCommand(e), kekCreateCommand(e), kekRotateCommand(e), kekRevokeCommand(e)},
	}
}

func kekRotateCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "rotate",
		Usage:     "move volumes to the key that wraps now",
		ArgsUsage: "[NAME...]",
		Description: `Wraps anew, with the active key, what opens the agent slot of each volume
(all, if none is named). No key slot changes, and mounted volumes stay
mounted. Each new wrap is unwrapped and opens its slot before it replaces the
old one. At the end it says which old keys no volume needs any more, and of
none that it is not needed while a volume cannot be read. Devices taken by
"keyslot adopt" count as volumes here, also those that are not attached.

First put the new provider or key under [kek], and the old one under
[[previous]], then:

   voluks kek rotate`,
		Flags: bulkFlags()[1:],
		Action: func(c *cli.Context) error {
			if n := c.Int("parallel"); n < 1 || n > 64 {
				return &usageError{command: c.Command.HelpName, text: "--parallel is 1 to 64"}
			}
			return e.kekRotate(c.Context, c.Args().Slice(), c.Int("parallel"))
		},
	}
}

type kekRotateResult struct {
	bulkResult
	Active   kek.Ref      `json:"active"`
	Previous []keyVerdict `json:"previous"`
	Unknown  []string     `json:"unknown"` // volumes of which it cannot be told which keys they need
}

// keyVerdict says who needs a key.
type keyVerdict struct {
	Key     kek.Ref  `json:"key"`
	Needed  []string `json:"needed_by"`
	Unknown []string `json:"unknown"` // volumes of which it cannot be told
}

// free says that no volume needs the key, for sure.
func (v keyVerdict) free() bool { return len(v.Needed) == 0 && len(v.Unknown) == 0 }

func (e *env) kekRotate(ctx context.Context, names []string, parallel int) error {
	k, err := e.newKeys()
	if err != nil {
		return err
	}
	jobs, err := e.agentJobs(ctx, names)
	if err != nil {
		return err
	}
	b := &bulk{e: e, jobs: jobs, parallel: parallel, verb: "moved", again: "voluks kek rotate", adopted: volume.AdoptedRequest{Action: volume.ActionRewrap}}
	b.run(ctx, func(ctx context.Context, c *worker.Client, name string) (volume.KeyReceipt, error) {
		return c.Rewrap(ctx, name)
	})
	result := kekRotateResult{bulkResult: b.result(), Active: k.KEK.Active.Ref()}
	uses, err := e.keyUses(ctx)
	if err != nil {
		return err
	}
	result.Previous, result.Unknown = verdicts(uses, k.KEK)
	if err := e.print(result, func(w io.Writer) {
		b.table(w)
		for _, v := range result.Previous {
			v.text(w)
		}
		switch {
		case len(result.Unknown) > 0:
			fmt.Fprintf(w, "keep every old key: it cannot be told which one is needed by %s\n", strings.Join(result.Unknown, ", "))
		case len(result.Previous) == 0:
			fmt.Fprintf(w, "every volume is on %v\n", result.Active)
		}
	}); err != nil {
		return err
	}
	return b.err(ctx)
}

// newKeys is keys for a command that moves volumes to another key: the configuration, which somebody has edited for it, is durable before any volume needs
// what stands there.
func (e *env) newKeys() (*keyslot.Keyring, error) {
	k, err := e.keys()
	if err != nil {
		return nil, err
	}
	if err := sys.SyncFile(e.configFile()); err != nil {
		return nil, fmt.Errorf("make the configuration durable: %w", err)
	}
	return k, nil
}

// keys opens the configured key providers, of which only the names are needed here.
func (e *env) keys() (*keyslot.Keyring, error) {
	cfg, err := e.loadConfig()
	if err != nil {
		return nil, err
	}
	return keyslot.OpenKeyring(cfg)
}

// verdicts says of each key but the active one that is configured, or that any volume needs or was once wrapped by, who needs it. While one volume cannot be read, no key is
// free: it may be the one that needs it.
func verdicts(uses []volume.KeyUse, keys *kek.Set) (all []keyVerdict, unknown []string) {
	all, unknown = []keyVerdict{}, []string{}
	add := func(ref kek.Ref, needed ...string) {
		if ref.ID == "" || ref.SameKey(keys.Active.Ref()) {
			return
		}
		i := slices.IndexFunc(all, func(v keyVerdict) bool { return v.Key.SameKey(ref) })
		if i < 0 {
			all = append(all, keyVerdict{Key: kek.Ref{Provider: ref.Provider, ID: ref.ID}, Needed: []string{}})
			i = len(all) - 1
		}
		all[i].Needed = append(all[i].Needed, needed...)
	}
	for _, p := range keys.Previous {
		add(p.Ref())
	}
	for _, u := range uses {
		if u.Err != nil {
			unknown = append(unknown, nameOf(u))
		}
		for _, ref := range u.History {
			add(ref)
		}
		for _, ref := range u.Keys {
			add(ref, nameOf(u))
		}
	}
	for i := range all {
		all[i].Unknown = unknown
	}
	return all, unknown
}

// nameOf tells volumes and tombstones of the same name apart.
func nameOf(u volume.KeyUse) string {
	if u.Removed {
		return u.Volume + " (removed, " + u.UUID + ")"
	}
	if u.Adopted {
		return u.Volume + " (an adopted device)"
	}
	return u.Volume
}

func (v keyVerdict) text(w io.Writer) {
	switch {
	case v.free():
		fmt.Fprintf(w, "%v is needed by no volume any more\n", v.Key)
	case len(v.Needed) > 0:
		fmt.Fprintf(w, "%v is still needed by %s\n", v.Key, strings.Join(v.Needed, ", "))
	}
}
