// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/credential"
	"github.com/voluks/voluks/internal/kek/credential/sealed"
	"github.com/voluks/voluks/internal/kek/file"
	"github.com/voluks/voluks/internal/kek/keydir"
	"github.com/voluks/voluks/internal/kek/keyfile"
	"github.com/voluks/voluks/internal/kek/providers"
)

func kekCreateCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "create",
		Usage:     "make a key for a provider that keeps it on this node",
		ArgsUsage: "file|keydir|credential PATH",
		Description: `Makes a master key in a file, marks a directory for key files of volumes, or
makes a systemd credential, sealed to the TPM2 and the host key of this node, as
far as there are any. It prints what goes into the configuration to use it; no
volume uses it before that, and nothing that exists is overwritten.

   voluks kek create file /etc/voluks/master-2.key
   voluks kek create keydir /media/keys
   voluks kek create credential /etc/credstore.encrypted/voluks-kek

Keys of other providers are made where they are kept: see "voluks init --kek".`,
		Flags: []cli.Flag{&cli.StringFlag{Name: "tpm2-device", Usage: "seal the credential to this `DEVICE`"}},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "file, keydir or credential", "PATH")
			if err != nil {
				return err
			}
			if !slices.Contains(localProviders, args[0]) {
				return &usageError{c.Command.HelpName, quoted(args[0]) + " is not file, keydir or credential" + didYouMean(args[0], localProviders)}
			}
			tpm := c.String("tpm2-device")
			if tpm != "" && args[0] != "credential" {
				return &usageError{c.Command.HelpName, "--tpm2-device is for a credential"}
			}
			return e.kekCreate(c.Context, args[0], args[1], tpm)
		},
	}
}

var localProviders = []string{"file", "keydir", "credential"}

// madeKey is a key that was made on this node.
type madeKey struct {
	Key      kek.Ref  `json:"key"`
	Path     string   `json:"path"`
	SealedTo []string `json:"sealed_to,omitempty"` // of a credential
	Config   string   `json:"config"`              // the table for the configuration

	kek config.KEK
}

func (e *env) kekCreate(ctx context.Context, provider, path, tpm string) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	made, err := makeKey(ctx, provider, path, tpm)
	if err != nil {
		return err
	}
	made.Config = string(made.kek.Render("kek"))
	return e.print(made, func(w io.Writer) {
		made.text(w)
		fmt.Fprintf(w, "\nTo use it, write this into %s in place of [kek], what stands there under [[previous]],\nand then: voluks kek test, voluks kek rotate\n\n%s", e.configFile(), made.Config)
	})
}

// makeKey makes a key at an absolute path. tpm is the TPM2 device of a credential, or "".
func makeKey(ctx context.Context, provider, path, tpm string) (made madeKey, err error) {
	made = madeKey{Path: path, kek: config.KEK{Provider: provider}}
	switch provider {
	case "file":
		made.kek.File = &config.File{Path: path}
		made.Key, err = file.Generate(path)
	case "keydir":
		made.kek.KeyDir = &config.KeyDir{Path: path}
		made.Key, err = keydir.Init(keydir.Settings{At: "keydir", Path: path})
	case "credential":
		c := config.Credential{Path: path, TPM2Device: tpm}
		if name := filepath.Base(path); name != sealed.DefaultName {
			c.Name = name
		}
		made.kek.Credential = &c
		made.Key, made.SealedTo, err = credential.Create(ctx, providers.Credential("credential", c))
		if errors.Is(err, keyfile.ErrExists) {
			err = &existsError{err, nil} // no setting is to be changed for that
		}
	}
	if err != nil {
		return madeKey{}, fmt.Errorf("make a key: %w", err)
	}
	return made, nil
}

// text tells a person what was made and how it has to be kept.
func (m madeKey) text(w io.Writer) {
	switch m.kek.Provider {
	case "file":
		fmt.Fprintf(w, "made %s: a master key (fingerprint %s). Back it up, away from the volumes.\n", m.Path, m.Key.ID)
	case "keydir":
		fmt.Fprintf(w, "made %s a key directory (%s): it gets a key file per volume. Back it up, away from the volumes.\n", m.Path, m.Key.ID)
	case "credential":
		fmt.Fprintf(w, "made %s: a credential with a master key (fingerprint %s), sealed to %s.\n", m.Path, m.Key.ID, sealedTo(m.SealedTo))
		fmt.Fprintln(w, "Nobody can back it up: when what it is sealed to is lost or replaced, the recovery identity opens the volumes.")
	}
}

func sealedTo(keys []string) string {
	if slices.Equal(keys, []string{sealed.HostKey}) {
		return keys[0] + " alone, since systemd can use no TPM2 here: whoever has the disk has it"
	}
	return strings.Join(keys, " and ")
}
