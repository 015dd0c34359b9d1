// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/passphrase"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// keyInput says where a key of a slot comes from: a file, an open descriptor, or else a person.
type keyInput struct {
	file string
	fd   int // -1: none
	slot int // -1: any
}

func (i keyInput) given() bool { return i.file != "" || i.fd >= 0 }

// presentFlags are how a command is given a key that opens a slot now.
func presentFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "key-file", Usage: "take a present key from `FILE`"},
		&cli.IntFlag{Name: "key-fd", Value: -1, Usage: "take a present key from the open descriptor `N`"},
		&cli.IntFlag{Name: "slot", Value: -1, Usage: "the present key opens slot `N`, otherwise all are tried"},
	}
}

func presentInput(c *cli.Context) (keyInput, error) {
	return checkInput(c, keyInput{c.String("key-file"), c.Int("key-fd"), c.Int("slot")})
}

func newFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "new-key-file", Usage: "take the new key from `FILE`, all of it; otherwise ask for a passphrase"},
		&cli.IntFlag{Name: "new-key-fd", Value: -1, Usage: "take the new key from the open descriptor `N`"},
	}
}

func newInput(c *cli.Context, slot int) (keyInput, error) {
	return checkInput(c, keyInput{c.String("new-key-file"), c.Int("new-key-fd"), slot})
}

// checkInput wants one source at most, and numbers that are slots: 0 is one, and only a flag that was left out is none. F34
func checkInput(c *cli.Context, i keyInput) (keyInput, error) {
	usage := func(text string) (keyInput, error) { return i, &usageError{c.Command.HelpName, text} }
	switch {
	case i.file != "" && i.fd >= 0:
		return usage("a key comes from a file or from a descriptor, not from both")
	case i.slot < -1 || i.slot >= header.MaxKeyslots:
		return usage(fmt.Sprintf("key slot %d: there are 0 to %d", i.slot, header.MaxKeyslots-1))
	case i.fd < -1:
		return usage(fmt.Sprintf("descriptor %d", i.fd))
	}
	return i, nil
}

// read takes the key from where it is, all of it, or asks a person. The caller wipes it.
func (e *env) read(ctx context.Context, i keyInput, prompt string) (*secret.Key, error) {
	switch {
	case i.file != "":
		return secretFile(i.file)
	case i.fd >= 0:
		f := os.NewFile(uintptr(i.fd), fmt.Sprintf("descriptor %d", i.fd))
		defer f.Close()
		k, err := readSecret(f)
		if err != nil {
			return nil, fmt.Errorf("read a key from descriptor %d: %w", i.fd, err)
		}
		return k, nil
	}
	return e.passphrase(ctx, prompt)
}

// errNotTheSame is a passphrase that was typed differently the second time.
var errNotTheSame = errors.New("the two passphrases are not the same")

// readNew takes a new key, and says which derivation it gets in place of an old slot's; nil for a slot that has no predecessor. A passphrase is typed
// twice, and a weak one is refused, whatever it comes from: a file may hold one, too. F34
func (e *env) readNew(ctx context.Context, i keyInput, device string, old *header.KDF) (*secret.Key, luks.KDF, error) {
	k, err := e.read(ctx, i, "A new passphrase for "+device+": ")
	if errors.Is(err, errNothingTyped) || errors.Is(err, errEmpty) {
		err = &passphrase.WeakError{}
	}
	if err != nil {
		return nil, luks.KDF{}, err
	}
	err = passphrase.Check(k)
	if err == nil && !i.given() {
		var again *secret.Key
		if again, err = e.passphrase(ctx, "The same again: "); err == nil {
			if !k.Equal(again) {
				err = errNotTheSame
			}
			again.Wipe()
		}
	}
	if err != nil {
		k.Wipe()
		return nil, luks.KDF{}, err
	}
	if old == nil {
		return k, luks.KDFPassphrase, nil
	}
	return k, luks.AtLeast(*old), nil
}

// authorize finds what opens a container now: the key that was given; else the node's own, if the container has a slot for it; else a passphrase that is
// asked for. A slot that is not to be used is named by but. The caller wipes the key.
func (e *env) authorize(ctx context.Context, c keyslot.Container, k *keyslot.Keyring, i keyInput, device string, but int) (auth luks.Auth, err error) {
	h, err := c.Header()
	if err != nil {
		return auth, err
	}
	slots, _ := keyslot.State(h)
	if !i.given() && i.slot < 0 && k.KEK != nil {
		for _, s := range slots.Slots {
			if s.Managed && s.Role == keyslot.RoleAgent {
				auth.Slot, auth.Key, err = keyslot.Unlock(ctx, c, k)
				return auth, err
			}
		}
	}
	prompt := "A passphrase that opens " + device + " now: "
	if but >= 0 {
		prompt = fmt.Sprintf("A passphrase that opens another slot of %s than %d: ", device, but)
	}
	if auth.Key, err = e.read(ctx, i, prompt); err != nil {
		return auth, err
	}
	if i.slot >= 0 {
		auth.Slot, err = i.slot, c.TestSlot(i.slot, auth.Key)
	} else {
		auth.Slot, err = keyslot.Opens(c, h, auth.Key, but)
	}
	if err != nil {
		auth.Key.Wipe()
	}
	return auth, err
}
