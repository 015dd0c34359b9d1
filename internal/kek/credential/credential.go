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
	"github.com/voluks/voluks/internal/kek/local"
	"github.com/voluks/voluks/internal/kek/subprocess"
	"github.com/voluks/voluks/internal/lateregexp"
	"github.com/voluks/voluks/internal/secret"
)

const (
	name = "credential"
	// DefaultName is what the credential is called unless the configuration says otherwise.
	DefaultName = "voluks-kek"

	program = "/usr/bin/systemd-creds"
	// openTimeout is how long New may take to learn the key's name.
	openTimeout = 20 * time.Second
)

// Settings say which credential it is.
type Settings struct {
	// At is the dotted name of these settings in the configuration, for errors: "kek.credential".
	At kek.Table
	// Name is the credential's name, which is sealed into it. "" is DefaultName.
	Name string
	// Path is the absolute path of the encrypted credential.
	Path string
	// TPM2Device is "" for the one that systemd finds.
	TPM2Device string
}

var credentialName = lateregexp.New(`^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}$`)

func (s *Settings) check() error {
	if s.Name == "" {
		s.Name = DefaultName
	}
	switch {
	case !credentialName().MatchString(s.Name):
		return s.At.Bad("name", "%q is not the name of a credential", s.Name)
	case !filepath.IsAbs(s.Path):
		return s.At.Bad("path", "%q is not the absolute path of an encrypted credential", s.Path)
	}
	return nil
}

// New decrypts the credential once, to check it and to learn the key's fingerprint. Errors are, or wrap, *kek.ConfigError; one that may pass, such as
// of a TPM that is not there yet, is kek.ErrUnavailable too.
func New(s Settings) (kek.Provider, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	defer cancel()
	return local.New(ctx, name, s.master)
}

// master returns the master key, which the caller wipes.
func (s *Settings) master(ctx context.Context) (*secret.Key, error) {
	key, err := s.loaded()
	if errors.Is(err, fs.ErrNotExist) {
		return s.decrypt(ctx)
	}
	return key, err
}

// loaded reads the credential that systemd has given to this unit. The error wraps fs.ErrNotExist if it has given none.
func (s *Settings) loaded() (*secret.Key, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return nil, fs.ErrNotExist
	}
	f, err := os.Open(filepath.Join(dir, s.Name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, s.At.Bad("name", "%w", err)
	}
	defer f.Close()
	key, err := secret.Read(f, kek.KeySize)
	if err != nil {
		return nil, s.At.Bad("name", "the credential %s that the unit loads is not a key of %d bytes: %w", s.Name, kek.KeySize, err)
	}
	return key, nil
}

// decrypt has systemd-creds decrypt the file.
func (s *Settings) decrypt(ctx context.Context) (*secret.Key, error) {
	sealed, err := readSealed(s.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, s.At.Bad("path", `%s does not exist; "voluks init --credential" makes it: %w`, s.Path, err)
	}
	if err != nil {
		return nil, s.At.Bad("path", "%w", err)
	}
	if keys, err := SealedTo(sealed); err != nil {
		return nil, s.At.Bad("path", "%s %w", s.Path, err)
	} else if len(keys) == 0 {
		return nil, s.At.Bad("path", "%s is encrypted with no key at all, so that anybody can decrypt it", s.Path)
	}
	args := append([]string{program, "decrypt", "--name=" + s.Name, "--newline=no"}, s.tpm()...)
	out, err := subprocess.Cmd{Argv: append(args, "-", "-"), Env: environment(), Stdin: sealed, MaxOut: kek.KeySize + 1}.Run(ctx)
	if err != nil {
		return nil, s.failed(ctx, "path", err)
	}
	key, err := out.Key(kek.KeySize)
	if err != nil {
		return nil, s.At.Bad("path", "%s is not a key of %d bytes: %w", s.Path, kek.KeySize, err)
	}
	return key, nil
}

func (s *Settings) tpm() []string {
	if s.TPM2Device == "" {
		return nil
	}
	return []string{"--tpm2-device=" + s.TPM2Device}
}
