// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/atomicfile"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

func keyslotAdoptCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:      "adopt",
		Usage:     "let this node open a LUKS2 device of yours at boot",
		ArgsUsage: "DEVICE",
		Description: `Adds a key slot that this node opens through its key provider to a LUKS2
device that somebody else formatted. Its data and all other slots stay as they
are; one of these is needed now, and remains the way in without this node.
"voluks boot crypttab NAME" then prints the line with which systemd opens the
device at boot.

   voluks keyslot adopt --name data /dev/sdb1
   voluks boot crypttab data >>/etc/crypttab`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "call it `NAME`, otherwise luks-UUID"},
			&cli.StringFlag{Name: "key-file", Usage: "take a present key from `FILE`, otherwise ask for the passphrase"},
			&cli.IntFlag{Name: "slot", Value: -1, Usage: "the present key opens slot `N`, otherwise all are tried"},
		},
		Action: func(c *cli.Context) error {
			args, err := arguments(c, "DEVICE")
			if err != nil {
				return err
			}
			if name := c.String("name"); name != "" {
				if err := checkMappingName(name); err != nil {
					return &usageError{c.Command.HelpName, err.Error()}
				}
			}
			return e.keyslotAdopt(c.Context, args[0], c.String("name"), c.String("key-file"), c.Int("slot"))
		},
	}
}

// longestMapping is how long the name of a mapping may be: systemd-cryptsetup puts it into the name of its end of the connection, which has 108 bytes
// with "@", 16 digits and "/cryptsetup/" in front. Without that it does not even ask.
const longestMapping = 78

func checkMappingName(name string) error {
	if err := volume.CheckName(name); err != nil {
		return err
	}
	if len(name) > longestMapping {
		return fmt.Errorf("%s: systemd-cryptsetup asks for keys of names up to %d bytes, and this has %d", quoted(name), longestMapping, len(name))
	}
	return nil
}

// adoptedDevice is what is remembered of an adopted device, for "boot crypttab" and for changes of all keys: whoever loses it loses nothing, since the
// device's header has its slot and token, and crypttab has its line; adopting it once more brings it back.
type adoptedDevice struct {
	Name string `json:"name"`
	UUID string `json:"uuid"`
	Slot int    `json:"slot"`
	Made bool   `json:"made"` // this time
	// Path is where it was then, for an image and where udev makes no links by UUID.
	Path string `json:"path,omitempty"`
}

func (e *env) adoptedFile(name string) string {
	return filepath.Join(e.paths().State, "adopted", name+".json")
}

func (e *env) keyslotAdopt(ctx context.Context, device, name, keyFile string, slot int) error {
	if err := sys.Harden(); err != nil {
		return err
	}
	cfg, err := e.loadConfig()
	if err != nil {
		return err
	}
	keys, err := keyslot.OpenKeyring(cfg)
	if err != nil {
		return err
	}
	c := luks.Foreign(device)
	h, err := c.Header()
	if err != nil {
		return adoptError(device, err)
	}
	slots, err := keyslot.State(h)
	if err != nil {
		return adoptError(device, err)
	}
	if slots.Volume != nil {
		return adoptError(device, fmt.Errorf("it is the volume %q, which needs no adoption", slots.Volume.Name))
	}
	auth := luks.Auth{}
	if !slices.ContainsFunc(slots.Slots, func(s keyslot.Slot) bool { return s.Managed && s.Role == keyslot.RoleAgent }) {
		if auth, err = e.authorize(ctx, c, &keyslot.Keyring{}, keyInput{keyFile, -1, slot}, device, -1); err != nil {
			return adoptError(device, err)
		}
		defer auth.Key.Wipe()
	}
	adopted, err := keyslot.Adopt(ctx, c, keys, auth)
	if err != nil {
		return adoptError(device, err)
	}
	if name == "" {
		name = "luks-" + adopted.UUID
	}
	path, err := filepath.Abs(device)
	if err != nil {
		return err
	}
	result := adoptedDevice{name, adopted.UUID, adopted.Slot, adopted.Made, path}
	if before, err := e.adopted(name); err == nil && before.UUID != result.UUID {
		e.warn("%s was the name of the device %s: if crypttab still has a line for it, one of the two needs another name", name, before.UUID)
	}
	if err := e.rememberAdopted(result); err != nil {
		return err
	}
	if adopted.Made {
		e.renewBackup(keys, device, adopted.UUID, true)
	}
	return e.print(result, func(w io.Writer) {
		if adopted.Made {
			fmt.Fprintf(w, "adopted %s (%s): this node opens slot %d\n", device, adopted.UUID, adopted.Slot)
		} else {
			fmt.Fprintf(w, "%s (%s) is adopted already: this node opens slot %d\n", device, adopted.UUID, adopted.Slot)
		}
		fmt.Fprintf(w, "its line for crypttab: voluks boot crypttab %s\n", name)
	})
}

// adoptError gives what went wrong the form of the errors of volumes, which have hints and exit statuses.
func adoptError(device string, err error) error {
	code := volume.CodeInternal
	var strict *header.StrictError
	switch {
	case errors.Is(err, header.ErrLUKS1):
		return &luks1Error{device}
	case errors.Is(err, header.ErrNotLUKS), errors.As(err, &strict):
		code = volume.CodeInvalid
	case errors.Is(err, luks.ErrWrongKey), errors.Is(err, luks.ErrNoSlot):
		code = volume.CodeLocked
	case errors.Is(err, fs.ErrNotExist):
		code = volume.CodeNotFound
	default:
		return fmt.Errorf("adopt %s: %w", device, err)
	}
	return &volume.Error{Code: code, Op: "adopt " + device, Err: err}
}

// passphrase asks for one without showing it. A signal leaves the terminal as it was.
func (e *env) passphrase(ctx context.Context, prompt string) (key *secret.Key, err error) {
	if !e.interactive() {
		return nil, &refusedError{text: "there is no terminal to ask for a passphrase on: name a file with --key-file"}
	}
	show, err := sys.HideInput(e.stdin)
	if err != nil {
		return nil, err
	}
	fmt.Fprint(e.stdout, prompt)
	key, err = e.secretLine(ctx)
	if failed := show(); failed != nil {
		e.warn("the terminal still hides what is typed (%v): stty echo", failed)
	}
	return key, err
}

// adopted is the device of that name; an error wraps fs.ErrNotExist if there is none.
func (e *env) adopted(name string) (d adoptedDevice, err error) {
	b, err := atomicfile.Read(e.adoptedFile(name), 1<<16)
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(b, &d); err != nil {
		return d, fmt.Errorf("read %s: %w", e.adoptedFile(name), err)
	}
	return d, nil
}

func (e *env) rememberAdopted(d adoptedDevice) error {
	file := e.adoptedFile(d.Name)
	if err := e.makeState(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	d.Made = false
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return atomicfile.Write(file, append(b, '\n'), 0o600)
}
