// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/recovery"
)

func recoveryCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "recovery",
		Usage: "the offline identity that opens every volume of this node",
		Description: `When the key of this node, or the node itself, is gone, its volumes are
opened with the recovery identity. It is kept away from the node, by one
person or in shares by several: see docs/recovery.md.`,
		Subcommands: []*cli.Command{
			recoveryInitCommand(e),
			recoveryShowCommand(e),
			recoverySplitCommand(e),
			recoveryCheckCommand(e),
			recoveryCombineCommand(e),
			recoveryVerifyCommand(e),
			recoveryRekeyCommand(e),
			recoveryKeyCommand(e),
		},
	}
}

func recoveryShowCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "show",
		Usage: "say which identities can open the volumes of this node",
		Description: `Shows the recovery recipients of this node, which are public. The
fingerprint of each is the one on its shares.

   voluks recovery show`,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return e.recoveryShow()
		},
	}
}

type recipientResult struct {
	Fingerprint string `json:"fingerprint"`
	Kind        string `json:"kind"`
	Recipient   string `json:"recipient"`
}

type recoveryResult struct {
	None       bool              `json:"none"` // the configuration says that there is no recovery
	Confirmed  bool              `json:"confirmed"`
	Recipients []recipientResult `json:"recipients"`
}

func (e *env) recoveryShow() error {
	cfg, err := e.loadConfig()
	if err != nil {
		return err
	}
	recipients, err := recovery.ParseRecipients(cfg.Recovery.Recipients)
	if err != nil {
		return err
	}
	result := recoveryResult{None: cfg.Recovery.None, Confirmed: cfg.Recovery.Confirmed, Recipients: []recipientResult{}}
	for _, r := range recipients {
		result.Recipients = append(result.Recipients, recipientResult{r.Fingerprint(), kindOf(r), r.String()})
	}
	return e.print(result, func(w io.Writer) {
		switch {
		case result.None:
			fmt.Fprintln(w, "There is no recovery: only the master key of this node opens its volumes.")
			return
		case !result.Confirmed:
			fmt.Fprintln(w, "Nobody has confirmed yet to keep the identity, so no volume can be made.")
		}
		var rows [][]string
		for _, r := range result.Recipients {
			rows = append(rows, []string{r.Fingerprint, r.Kind, shortened(r.Recipient)})
		}
		table(w, []string{"FINGERPRINT", "KIND", "RECIPIENT"}, rows)
	})
}

func kindOf(r recovery.Recipient) string {
	if r.PostQuantum() {
		return "post-quantum"
	}
	return "X25519"
}

// shortened cuts a post-quantum recipient, which would fill a screen.
func shortened(recipient string) string {
	if len(recipient) > 70 {
		return recipient[:40] + "..."
	}
	return recipient
}
