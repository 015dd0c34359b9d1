// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/atomicfile"
	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/recovery/share"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
)

// initOptions say who will be able to open the volumes when the node is gone. At most one of the first three is set; none: a person is asked.
type initOptions struct {
	recipients   []string
	identityFile string
	none         bool
	split        string // "3/5": show shares instead of the identity; "": do not
	key          keyChoice
}

func initCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "init",
		Usage: "set up this node: configuration, key, recovery identity",
		Description: `Makes /etc/voluks/config.toml and the master key of this node,
/etc/voluks/master.key, which opens all of its volumes. Neither is ever
overwritten, and the key is never shown. The key can be kept elsewhere:

   voluks init --credential       sealed by systemd, to the TPM2 and the
                                  host key as far as there are any
   voluks init --keydir DIR       a key file per volume, in your custody
   voluks init --kek FILE         by the provider in FILE, which has the
                                  [kek] table of a configuration, such as
                                  Vault, AWS KMS or clevis; it is tried

Unless told otherwise it also makes the recovery identity: with it every
volume can be opened when this node or its key is gone. It is shown once
and not kept here, so it has to be kept elsewhere: on paper, or in a
password manager. The node keeps only the public half. No volume can be
made before somebody has confirmed to have it.

   voluks init                                         show it here, once
   voluks init --split 3/5                             in shares, of which
                                                       any 3 are enough
   voluks init --recovery-recipient age1...            have one already
   voluks init --recovery-identity-file /media/usb/id  into a new file
   voluks init --no-recovery                           none: who loses
                                                       master.key loses all`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "recovery-recipient", Usage: "`RECIPIENT` (age1...) of an identity kept elsewhere; repeatable"},
			&cli.StringFlag{Name: "recovery-identity-file", Usage: "new `FILE` for the recovery identity"},
			&cli.StringFlag{Name: "split", Usage: "show the recovery identity in shares, `NEEDED/TOTAL`"},
			&cli.BoolFlag{Name: "no-recovery", Usage: "make no recovery slots", DisableDefaultText: true},
			&cli.BoolFlag{Name: "keep-master-key", Usage: "use the master key that is there", DisableDefaultText: true},
			&cli.BoolFlag{Name: "credential", Usage: "make a systemd credential instead of a master key", DisableDefaultText: true},
			&cli.StringFlag{Name: "tpm2-device", Usage: "seal it to this `DEVICE`, not to what systemd finds"},
			&cli.StringFlag{Name: "keydir", Usage: "keep a key file per volume in `DIR`, which exists"},
			&cli.StringFlag{Name: "kek", Usage: "use the key provider of the [kek] table in `FILE`"},
			&cli.BoolFlag{Name: "untested", Usage: "do not try the key provider", DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			o := initOptions{c.StringSlice("recovery-recipient"), c.String("recovery-identity-file"), c.Bool("no-recovery"), c.String("split"),
				keyChoice{c.Bool("keep-master-key"), c.String("keydir"), c.Bool("credential"), c.String("tpm2-device"), c.String("kek"), c.Bool("untested")}}
			if o.key.given() > 1 {
				return &usageError{command: c.Command.HelpName, text: "choose one of --keep-master-key, --credential, --keydir and --kek"}
			}
			if o.key.tpm != "" && !o.key.credential {
				return &usageError{command: c.Command.HelpName, text: "--tpm2-device is for --credential"}
			}
			given := 0
			for _, set := range []bool{len(o.recipients) > 0, o.identityFile != "", o.none} {
				if set {
					given++
				}
			}
			if given > 1 {
				return &usageError{command: c.Command.HelpName, text: "choose one of --recovery-recipient, --recovery-identity-file and --no-recovery"}
			}
			if o.split != "" {
				if given > 0 {
					return &usageError{command: c.Command.HelpName, text: "--split is for an identity that is made and shown here"}
				}
				if _, _, err := ratio(o.split); err != nil {
					return &usageError{command: c.Command.HelpName, text: "--split: " + err.Error()}
				}
			}
			return e.init(c.Context, o, given == 0)
		},
	}
}

// initResult is what init made.
type initResult struct {
	Config     string   `json:"config"`
	MasterKey  string   `json:"master_key,omitempty"` // the file of the file provider
	Provider   string   `json:"provider"`
	KeyID      string   `json:"key_id"` // public name of the key
	KeyDir     string   `json:"keydir,omitempty"`
	Credential string   `json:"credential,omitempty"`
	SealedTo   []string `json:"sealed_to,omitempty"` // what the credential is sealed to
	Recipients []string `json:"recovery_recipients,omitempty"`
	Identity   string   `json:"recovery_identity_file,omitempty"`
	NoRecovery bool     `json:"no_recovery,omitempty"`
}

// init sets up the node. The configuration is written last: a node that has one is set up completely. Whatever was made before a failure is
// taken back, since nothing can depend on it yet.
func (e *env) init(ctx context.Context, o initOptions, ask bool) (err error) {
	p := e.paths()
	cfg := config.Default(p)
	result := initResult{Config: e.configFile(), NoRecovery: o.none}
	if err := e.nothingThere(result, o.key); err != nil {
		return err
	}
	var undo []string
	defer func() {
		for _, path := range undo {
			if err != nil {
				err = errors.Join(err, os.Remove(path))
			}
		}
	}()

	cfg.Recovery.None, cfg.Recovery.Recipients, cfg.Recovery.Confirmed = o.none, o.recipients, !o.none
	if _, err := recovery.ParseRecipients(o.recipients); err != nil {
		return &usageError{command: "voluks init", text: "--recovery-recipient: " + err.Error()}
	}
	if ask || o.identityFile != "" {
		recipient, err := e.newIdentity(ctx, o.identityFile, o.split, recovery.Generate)
		if err != nil {
			return err
		}
		if o.identityFile != "" {
			result.Identity = o.identityFile
			undo = append(undo, o.identityFile)
		}
		cfg.Recovery.Recipients = []string{recipient}
	}
	result.Recipients = cfg.Recovery.Recipients

	if err := os.MkdirAll(p.Config, 0o755); err != nil {
		return fmt.Errorf("set up the node: %w", err)
	}
	made, files, err := e.initKey(ctx, o.key, &cfg)
	undo = append(undo, files...)
	if err != nil {
		return fmt.Errorf("set up the node: %w", err)
	}
	result.keyed(made)
	if err := e.writeConfig(cfg, p); err != nil {
		return fmt.Errorf("set up the node: %w", err)
	}
	undo = nil // whatever fails now, the node is set up
	return e.print(result, func(w io.Writer) {
		result.keyText(w, o.key, made)
		result.text(w)
	})
}

// nothingThere refuses a node that is set up already, in whole or in part.
func (e *env) nothingThere(r initResult, choice keyChoice) error {
	_, err := os.Lstat(r.Config)
	switch {
	case err == nil:
		return &existsError{fmt.Errorf("this node is set up already: %s exists and is never overwritten", r.Config), nil}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("set up the node: %w", err)
	}
	return e.keyThere(choice)
}

// keyed takes over what is told of the key.
func (r *initResult) keyed(made madeKey) {
	r.Provider, r.KeyID, r.SealedTo = made.Key.Provider, made.Key.ID, made.SealedTo
	switch made.kek.Provider {
	case "file":
		r.MasterKey = made.kek.File.Path
	case "keydir":
		r.KeyDir = made.kek.KeyDir.Path
	case "credential":
		r.Credential = made.kek.Credential.Path
	}
}

// existsError is something that init would have to overwrite.
type existsError struct {
	err   error
	hints []string
}

func (e *existsError) Error() string { return e.err.Error() }

// generator makes an identity: the text of it, which the caller wipes, and its recipient.
type generator func() (identity *secret.Key, recipient string, err error)

// newIdentity makes a recovery identity, hands it to the person or into the file, and returns its recipient.
func (e *env) newIdentity(ctx context.Context, path, split string, generate generator) (recipient string, err error) {
	if path == "" && !e.interactive() {
		return "", &refusedError{text: "nobody can confirm to keep the recovery identity: there is no terminal to show it on", retry: "voluks init"}
	}
	identity, recipient, err := generate()
	if err != nil {
		return "", err
	}
	defer identity.Wipe()
	switch {
	case path != "":
		return recipient, writeIdentity(path, identity, recipient)
	case split != "":
		return recipient, e.showSplit(ctx, identity, split)
	}
	return recipient, e.showIdentity(ctx, identity)
}

// showSplit shows the identity in shares, and itself never.
func (e *env) showSplit(ctx context.Context, identity *secret.Key, split string) error {
	needed, total, err := ratio(split)
	if err != nil {
		return err
	}
	shares, err := share.Split(identity, needed, total)
	if err != nil {
		return err
	}
	defer share.WipeAll(shares)
	return e.showShares(ctx, shares, false)
}

// shownTail is how many of the last characters of the identity a person types to show that it is kept.
const shownTail = 6

// showIdentity shows the identity once and returns nil when the person has typed its end.
func (e *env) showIdentity(ctx context.Context, identity *secret.Key) error {
	fmt.Fprint(e.stdout, `This is the recovery identity of this node. It is shown now and never again, and is not kept here:

    `)
	if _, err := e.stdout.Write(identity.Bytes()); err != nil {
		return fmt.Errorf("show the recovery identity: %w", err)
	}
	fmt.Fprint(e.stdout, `

Whoever has it can open every volume of this node, also when the node or its key is gone. Nobody can
without one of the two. Keep it away from this node: on paper in a safe, or in a password manager.

`)
	if kept, err := e.confirmKept(ctx, identity, shownTail); err != nil || kept {
		return err
	}
	return &refusedError{text: "not confirmed that the recovery identity is kept; nothing was set up, and the identity above is void", retry: "voluks init"}
}

// writeIdentity writes the identity the way age-keygen does, to a file that did not exist, durable when it returns.
func writeIdentity(path string, identity *secret.Key, recipient string) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return &existsError{fmt.Errorf("%s exists already and is never overwritten", path), nil}
	}
	if err != nil {
		return fmt.Errorf("write the recovery identity: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			err = errors.Join(fmt.Errorf("write the recovery identity: %w", err), os.Remove(path))
		}
	}()
	if _, err := fmt.Fprintf(f, "# recovery identity of a voluks node; opens every volume of it\n# public key: %s\n", recipient); err != nil {
		return err
	}
	if _, err := f.Write(identity.Bytes()); err != nil {
		return err
	}
	if _, err := f.WriteString("\n"); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return sys.SyncDir(filepath.Dir(path))
}

func (e *env) writeConfig(cfg config.Config, p config.Paths) error {
	data := cfg.Render()
	if _, err := config.Parse(e.configFile(), data, p); err != nil {
		return err
	}
	return atomicfile.Write(e.configFile(), data, 0o644)
}

// text tells a person what was made and what it means.
func (r initResult) text(w io.Writer) {
	fmt.Fprintf(w, "made %s: the configuration. It holds no secret.\n", r.Config)
	switch {
	case r.NoRecovery:
		fmt.Fprintln(w, "\nThere is no recovery: whoever loses the key loses every volume. To change that later, see [recovery] in the configuration.")
	case r.Identity != "":
		fmt.Fprintf(w, "made %s: the recovery identity. It opens every volume: move it off this node now.\n", r.Identity)
	default:
		fmt.Fprintf(w, "volumes can be recovered with the identity of %s\n", strings.Join(r.Recipients, ", "))
	}
	fmt.Fprintln(w, "\nStart the agent:       systemctl enable --now voluks.socket voluks-keys.socket \\\n                         voluks.service voluks-gate.service voluks-shutdown.service\nMake the first volume: docker volume create -d voluks -o size=10G NAME")
}
