// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/atomicfile"
	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/internal/worker"
)

// What a crash leaves while the recovery recipients are changed, and who repairs it:
//
//	after this step         a crash leaves                                              repaired by
//	identity shown          an identity that opens nothing                              nobody: it was not confirmed to count
//	identity in a file      the same, in a file                                         nobody: the file is in the way of the next try, and is named
//	configuration written   new slots are sealed to the new recipients, volumes that
//	                        are there to the old ones: each opens with whom its
//	                        header names                                                rekey without recipients
//	each volume             the same, with fewer of the old ones                        the same
//
// The configuration comes first: what is created or rotated meanwhile is sealed to the new recipients, so that nothing is left behind.

func recoveryInitCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "init",
		Usage: "make a recovery identity for a node that was set up without one",
		Description: `Makes a recovery identity, or takes the recipients of one that is kept
elsewhere, writes the recipients into the configuration, and gives every
volume of this node a recovery slot. Without flags the identity is shown
here, once, and somebody has to confirm to have it.

A node that has confirmed recipients is changed with "recovery rekey".

   voluks recovery init
   voluks recovery init --split 3/5
   voluks recovery init --recipient age1...`,
		Flags: append(recipientFlags(), bulkFlags()[1:]...),
		Action: func(c *cli.Context) error {
			o, err := newRecipientsOf(c)
			if err != nil {
				return err
			}
			o.first = true
			return e.recoveryRekey(c.Context, o)
		},
	}
}

func recoveryRekeyCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "rekey",
		Usage: "seal every volume to other recovery recipients",
		Description: `For an identity that is lost or in wrong hands, or for other owners. The new
recipients, and no others, are written into the configuration; then each
volume gets a new recovery key, sealed to them, in a new slot, which is proven
before the old slot is destroyed. Header backups are renewed. One volume that
fails keeps no other; without recipients it goes on with what is not done.

Several recipients are several persons of whom each can open every volume;
post-quantum ones (age1pq1...) cannot be mixed with others. The identity of a
recipient given here is taken to be kept: try it afterwards with "recovery
verify".

An old identity and a copy of an old header still open a volume: those that
deserve another volume key are named at the end. This version does not change
the volume key; copy the data into a new volume.

   voluks recovery rekey --recipient age1...
   voluks recovery rekey --new-identity --split 3/5
   voluks recovery rekey --new-identity-file /media/usb/id --post-quantum
   voluks recovery rekey                                     go on`,
		Flags: append(append(recipientFlags(), &cli.BoolFlag{Name: "new-identity", Usage: "make an identity and show it here, once", DisableDefaultText: true}), bulkFlags()[1:]...),
		Action: func(c *cli.Context) error {
			o, err := newRecipientsOf(c)
			if err != nil {
				return err
			}
			return e.recoveryRekey(c.Context, o)
		},
	}
}

func recipientFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "recipient", Usage: "`RECIPIENT` (age1...) of an identity kept elsewhere; repeatable"},
		&cli.StringFlag{Name: "new-identity-file", Usage: "make an identity, into a new `FILE`"},
		&cli.StringFlag{Name: "split", Usage: "show the new identity in shares, `NEEDED/TOTAL`"},
		&cli.BoolFlag{Name: "post-quantum", Usage: "make an identity that withstands a quantum computer", DisableDefaultText: true},
	}
}

// newRecipients says to whom volumes shall be sealed.
type newRecipients struct {
	recipients []string
	show       bool // make an identity and show it
	file       string
	split      string
	quantum    bool
	first      bool // the node has none yet
	parallel   int
	command    string
}

func newRecipientsOf(c *cli.Context) (newRecipients, error) {
	o := newRecipients{
		recipients: c.StringSlice("recipient"), show: c.Bool("new-identity"), file: c.String("new-identity-file"), split: c.String("split"),
		quantum: c.Bool("post-quantum"), parallel: c.Int("parallel"), command: c.Command.HelpName,
	}
	usage := func(format string, args ...any) (newRecipients, error) {
		return o, &usageError{command: o.command, text: fmt.Sprintf(format, args...)}
	}
	if _, err := arguments(c); err != nil {
		return o, err
	}
	if o.split != "" {
		if _, _, err := ratio(o.split); err != nil {
			return usage("--split: %v", err)
		}
		o.show = true
	}
	switch {
	case len(o.recipients) > 0 && (o.file != "" || o.show), o.file != "" && o.show:
		return usage("choose: recipients, a new identity that is shown, or a new identity in a file")
	case len(o.recipients) > 0 && o.quantum:
		return usage("--post-quantum is for an identity that is made here")
	case o.parallel < 1 || o.parallel > 64:
		return usage("--parallel is 1 to 64")
	}
	if _, err := recovery.ParseRecipients(o.recipients); err != nil {
		return usage("--recipient: %v", err)
	}
	return o, nil
}

type rekeyResult struct {
	bulkResult
	Recipients []string `json:"recovery_recipients"`
	Identity   string   `json:"recovery_identity_file,omitempty"`
	// NotDone are volumes that an identity opens which is not to, or of which it cannot be told.
	NotDone []string `json:"not_done"`
	// Reencrypt are volumes that an identity which is not to any more still opens with a copy of an old header.
	Reencrypt []string `json:"reencrypt"`
}

func (e *env) recoveryRekey(ctx context.Context, o newRecipients) (err error) {
	cfg, err := e.loadConfig()
	if err != nil {
		return err
	}
	has := !cfg.Recovery.None && cfg.Recovery.Confirmed && len(cfg.Recovery.Recipients) > 0
	switch {
	case o.first && has:
		return &existsError{errors.New("this node has confirmed recovery recipients"), []string{"to see them: voluks recovery show", "to replace them: voluks recovery rekey --help"}}
	case !o.first && !has:
		return &usageError{command: "voluks recovery init", text: "this node has no confirmed recovery recipients yet: voluks recovery init makes them"}
	}
	o.show = o.show || o.first && len(o.recipients) == 0 && o.file == ""
	if o.quantum && o.file == "" && !o.show {
		return &usageError{command: o.command, text: "--post-quantum is for an identity that is made here: --new-identity or --new-identity-file"}
	}
	recipients := o.recipients
	if o.show || o.file != "" {
		recipient, err := e.newIdentity(ctx, o.file, o.split, o.generate())
		if err != nil {
			return err
		}
		recipients = []string{recipient}
	}
	if len(recipients) > 0 {
		if err := e.setRecipients(cfg, recipients); err != nil {
			if o.file != "" {
				err = errors.Join(err, os.Remove(o.file))
			}
			return err
		}
		cfg.Recovery.Recipients = recipients
	}
	parsed, err := recovery.ParseRecipients(cfg.Recovery.Recipients)
	if err != nil {
		return err
	}

	jobs, err := e.jobs(ctx, nil)
	if err != nil {
		return err
	}
	b := &bulk{e: e, jobs: jobs, parallel: o.parallel, verb: "sealed", again: "voluks recovery rekey"}
	b.run(ctx, func(ctx context.Context, c *worker.Client, name string) (volume.KeyReceipt, error) {
		return c.Rekey(ctx, name)
	})
	result := rekeyResult{bulkResult: b.result(), Recipients: cfg.Recovery.Recipients, Identity: o.file}
	if err := e.rekeyed(ctx, b, recovery.Fingerprints(parsed), &result); err != nil {
		return err
	}
	if err := e.print(result, func(w io.Writer) { result.text(w, b, parsed) }); err != nil {
		return err
	}
	if err := b.err(ctx); err != nil {
		return err
	}
	if len(result.NotDone) > 0 {
		return errors.New("not every volume is sealed to the new recipients alone: see what is not done, and run it again: voluks recovery rekey")
	}
	return nil
}

func (o newRecipients) generate() generator {
	if o.quantum {
		return recovery.GeneratePostQuantum
	}
	return recovery.Generate
}

// setRecipients writes the recipients into the configuration.
func (e *env) setRecipients(cfg config.Config, recipients []string) error {
	r := config.Recovery{Recipients: recipients, Confirmed: true, Drill: cfg.Recovery.Drill}
	if cfg.Recovery.None {
		r.Drill = config.Default(e.paths()).Recovery.Drill
	}
	data, err := os.ReadFile(e.configFile())
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	info, err := os.Stat(e.configFile())
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	changed, err := config.SetRecovery(e.configFile(), data, e.paths(), r)
	if err != nil {
		return fmt.Errorf("write the recipients into the configuration: %w", err)
	}
	return atomicfile.Write(e.configFile(), changed, info.Mode().Perm())
}

// rekeyed finds out what is left to be done.
func (e *env) rekeyed(ctx context.Context, b *bulk, now []string, result *rekeyResult) error {
	m := e.manager(e.quiet(), volume.Defaults{})
	uses, err := m.KeyUses(ctx)
	if err != nil {
		return err
	}
	result.NotDone, result.Reencrypt = []string{}, []string{}
	for _, u := range uses {
		other := slices.ContainsFunc(u.Recipients, func(f string) bool { return !slices.Contains(now, f) })
		switch {
		case u.Err != nil:
			result.NotDone = append(result.NotDone, u.Volume+": "+u.Error)
		case other && u.Removed:
			result.NotDone = append(result.NotDone, fmt.Sprintf("%s: it was removed; what is left of it lies in removed/%s", u.Volume, u.UUID))
		case other:
			result.NotDone = append(result.NotDone, u.Volume)
		}
	}
	for _, j := range b.jobs {
		if j.Receipt != nil && j.Receipt.Backups != nil && !j.Receipt.Backups.Complete() {
			result.NotDone = append(result.NotDone, j.Volume+": an older header backup could not be destroyed")
		}
	}
	infos, err := m.List(ctx)
	if err != nil {
		return err
	}
	for _, info := range infos {
		if slices.ContainsFunc(info.PastRecipients, func(f string) bool { return !slices.Contains(now, f) }) {
			result.Reencrypt = append(result.Reencrypt, info.Name)
		}
	}
	return nil
}

func (r rekeyResult) text(w io.Writer, b *bulk, recipients []recovery.Recipient) {
	b.table(w)
	if r.Identity != "" {
		fmt.Fprintf(w, "made %s: the recovery identity. It opens every volume: move it off this node now.\n", r.Identity)
	}
	if len(r.NotDone) == 0 {
		fmt.Fprintf(w, "every volume of this node is sealed to %s alone; try it: voluks recovery verify\n", strings.Join(recovery.Fingerprints(recipients), ", "))
	}
	for _, name := range r.NotDone {
		fmt.Fprintf(w, "not done: %s\n", name)
	}
	for _, name := range r.Reencrypt {
		fmt.Fprintf(w, "where copies of its old header may exist, copy the data into a new volume to reencrypt: %s\n", name)
	}
}
