// SPDX-License-Identifier: Apache-2.0

// Package credential is the key provider whose master key is a systemd credential: a file that systemd has encrypted to the TPM of this node, to a
// key of its installation, or to both.
//
// The agent, whose unit may load the credential, finds it decrypted in $CREDENTIALS_DIRECTORY. The command line, and an agent whose unit does not,
// have systemd-creds decrypt the file. The master key is read for each operation and wiped after it.
package credential

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/credential/sealed"
	"github.com/voluks/voluks/internal/kek/local"
	"github.com/voluks/voluks/internal/secret"
)

const name = "credential"

// openTimeout is how long New may take to learn the key's name.
const openTimeout = 20 * time.Second

// New decrypts the credential once, to check it and to learn the key's fingerprint. Errors are, or wrap, *kek.ConfigError; one that may pass, such as
// of a TPM that is not there yet, is kek.ErrUnavailable too.
func New(file sealed.File) (kek.Provider, error) {
	if err := file.Check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	return local.New(ctx, name, func(ctx context.Context) (*secret.Key, error) {
		key, err := loaded(file)
		if errors.Is(err, fs.ErrNotExist) {
			return file.Open(ctx)
		}
		return key, err
	})
}

// loaded reads the credential that systemd has given to this unit. The error wraps fs.ErrNotExist if it has given none.
func loaded(file sealed.File) (*secret.Key, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return nil, fs.ErrNotExist
	}
	f, err := os.Open(filepath.Join(dir, file.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, file.At.Bad("name", "%w", err)
	}
	defer f.Close()
	key, err := secret.Read(f, kek.KeySize)
	if err != nil {
		return nil, file.At.Bad("name", "the credential %s that the unit loads is not a key of %d bytes: %w", file.Name, kek.KeySize, err)
	}
	return key, nil
}

// Create makes a new master key in a credential, as file.Create does, and returns its name and what it is sealed to.
func Create(ctx context.Context, file sealed.File) (ref kek.Ref, sealedTo []string, err error) {
	master, sealedTo, err := file.Create(ctx)
	if err != nil {
		return kek.Ref{}, nil, err
	}
	defer master.Wipe()
	ref, err = local.Ref(name, master)
	return ref, sealedTo, err
}
