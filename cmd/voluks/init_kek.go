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

	"github.com/voluks/voluks/internal/atomicfile"
	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/file"
	"github.com/voluks/voluks/internal/kek/providers"
)

// keyChoice says where the keys of a new node are kept. At most one of the first four is set; none: in a new master key.
type keyChoice struct {
	keep       bool   // the master key that is there
	keydir     string // a directory of key files
	credential bool   // a systemd credential
	tpm        string // the TPM2 device that it is sealed to, or "": the one that systemd finds
	table      string // a file with the [kek] table of any provider
	untested   bool   // do not ask the provider whether it works
}

func (k keyChoice) given() (n int) {
	for _, set := range []bool{k.keep, k.keydir != "", k.credential, k.table != ""} {
		if set {
			n++
		}
	}
	return n
}

// initKey makes or finds the key of a new node, and proves that it wraps and unwraps: a node that is set up with a provider that does not work would
// be found out by the first volume. undo are files to be removed if the setting up fails further on.
func (e *env) initKey(ctx context.Context, choice keyChoice, cfg *config.Config) (made madeKey, undo []string, err error) {
	p := e.paths()
	switch {
	case choice.keydir != "":
		path, err := filepath.Abs(choice.keydir)
		if err != nil {
			return madeKey{}, nil, err
		}
		made, err = makeKey(ctx, "keydir", path, "")
		if err != nil {
			return madeKey{}, nil, err
		}
	case choice.credential:
		if made, err = makeKey(ctx, "credential", p.MasterCredential(), choice.tpm); err != nil {
			return madeKey{}, nil, err
		}
		undo = append(undo, made.Path)
	case choice.table != "":
		if made, err = e.readTable(choice.table); err != nil {
			return madeKey{}, nil, err
		}
	case choice.keep:
		path := p.MasterKey()
		provider, err := file.New(path)
		if err != nil {
			return madeKey{}, nil, err
		}
		made = madeKey{Key: provider.Ref(), Path: path, kek: cfg.KEK}
	default:
		if made, err = makeKey(ctx, "file", p.MasterKey(), ""); err != nil {
			return madeKey{}, nil, err
		}
		undo = append(undo, made.Path)
	}
	cfg.KEK = made.kek
	if choice.untested {
		return made, undo, nil
	}
	probe := testProvider(ctx, *cfg)
	if probe.Err != nil {
		return madeKey{}, undo, &untestedError{probe.Err, choice.table}
	}
	made.Key = probe.Ref
	return made, undo, nil
}

func testProvider(ctx context.Context, cfg config.Config) kek.Probe {
	set := providers.Open(cfg)
	if broken, ok := set.Active.(*kek.Broken); ok {
		return kek.Probe{Ref: broken.Ref(), Err: broken.Err}
	}
	return set.Test(ctx, set.Active)
}

// readTable reads the [kek] table of a file, in which nothing else may be.
func (e *env) readTable(path string) (madeKey, error) {
	const largest = 64 << 10
	data, err := atomicfile.Read(path, largest)
	if err != nil {
		return madeKey{}, fmt.Errorf("read the key provider's settings: %w", err)
	}
	k, err := config.ParseKEK(path, data, e.paths())
	if err != nil {
		return madeKey{}, err
	}
	provider, err := providers.New("kek", k)
	ref := kek.Ref{Provider: k.Provider}
	if err == nil {
		ref = provider.Ref()
	}
	return madeKey{Key: ref, kek: k}, nil // what is wrong shows when it is tested
}

// untestedError is a key provider that does not work at the moment that the node is set up with it.
type untestedError struct {
	err   error
	table string // file of the settings that were to be used; empty: there is none yet
}

func (e *untestedError) Error() string { return "try the key provider: " + e.err.Error() }
func (e *untestedError) Unwrap() error { return e.err }

// keyThere says whether the key that would be made is there already.
func (e *env) keyThere(choice keyChoice) error {
	path, hints := e.paths().MasterKey(), []string{"to set up this node with that key: voluks init --keep-master-key"}
	switch {
	case choice.credential:
		path, hints = e.paths().MasterCredential(), []string{"to set up this node with that credential, in a file with [kek], provider = \"credential\": voluks init --kek FILE"}
	case choice.given() > 0:
		return nil
	}
	_, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("set up the node: %w", err)
	}
	return &existsError{fmt.Errorf("%s exists already and is never overwritten", path), hints}
}

// keyText tells where the keys of the node are.
func (r initResult) keyText(w io.Writer, choice keyChoice, made madeKey) {
	switch {
	case choice.keep:
		fmt.Fprintf(w, "uses %s: the master key of this node (fingerprint %s). Back it up, away from the volumes.\n", made.Path, r.KeyID)
	case choice.table != "" && choice.untested:
		fmt.Fprintf(w, "uses %v, which was not asked. Before the first volume: voluks kek test\n", made.Key)
	case choice.table != "":
		fmt.Fprintf(w, "uses %v, which wraps and unwraps\n", made.Key)
	default:
		made.text(w)
	}
}
