// SPDX-License-Identifier: Apache-2.0

// Package providers makes the key providers of a configuration. It is the one package that knows all
// of them.
package providers

import (
	"errors"
	"fmt"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/awskms"
	"github.com/voluks/voluks/internal/kek/clevis"
	"github.com/voluks/voluks/internal/kek/credential"
	"github.com/voluks/voluks/internal/kek/credential/sealed"
	"github.com/voluks/voluks/internal/kek/exec"
	"github.com/voluks/voluks/internal/kek/file"
	"github.com/voluks/voluks/internal/kek/keydir"
	"github.com/voluks/voluks/internal/kek/vault"
)

// Open makes the set of a configuration. A provider that cannot be used does not keep the others from
// unlocking: it becomes a kek.Broken with a *kek.ConfigError, which also says what is wrong to those
// who ask before they need it, as Check does. No key server is asked; the credential provider may ask
// systemd-creds, and through it the TPM.
func Open(cfg config.Config) *kek.Set {
	set := &kek.Set{Timeouts: map[kek.Provider]time.Duration{}}
	open := func(at string, cfg config.KEK) kek.Provider {
		provider, err := New(at, cfg)
		if err != nil {
			provider = &kek.Broken{Name: cfg.Provider, Err: err}
		}
		set.Timeouts[provider] = cfg.Timeout
		return provider
	}
	set.Active = open("kek", cfg.KEK)
	for i, previous := range cfg.Previous {
		set.Previous = append(set.Previous, open(fmt.Sprintf("previous[%d]", i), previous))
	}
	return set
}

// New makes one provider. At is the dotted name of its table, for errors, which are, or wrap, a
// *kek.ConfigError.
func New(at string, cfg config.KEK) (kek.Provider, error) {
	table := at + "." + cfg.Provider
	provider, err := selected(kek.Table(table), cfg)
	var setting *kek.ConfigError
	switch {
	case err == nil:
		return provider, nil
	case errors.Is(err, errUnknown):
		table = at + ".provider"
	case errors.As(err, &setting):
		return nil, err
	case cfg.File != nil:
		table += ".path"
	}
	return nil, &kek.ConfigError{Setting: table, Err: err}
}

var errUnknown = errors.New("unknown key provider")

func selected(at kek.Table, cfg config.KEK) (kek.Provider, error) {
	switch {
	case cfg.Provider == "file" && cfg.File != nil:
		return file.New(cfg.File.Path)
	case cfg.Provider == "keydir" && cfg.KeyDir != nil:
		return keydir.New(keydir.Settings{At: at, Path: cfg.KeyDir.Path})
	case cfg.Provider == "credential" && cfg.Credential != nil:
		return credential.New(Credential(at, *cfg.Credential))
	case cfg.Provider == "awskms" && cfg.AWSKMS != nil:
		return awskms.New(at, *cfg.AWSKMS)
	case cfg.Provider == "vault" && cfg.Vault != nil:
		return vault.New(at, *cfg.Vault)
	case cfg.Provider == "clevis" && cfg.Clevis != nil:
		return clevis.New(at, *cfg.Clevis)
	case cfg.Provider == "exec" && cfg.Exec != nil:
		return exec.New(at, *cfg.Exec)
	}
	return nil, fmt.Errorf("%w %q", errUnknown, cfg.Provider)
}

// Credential is the table of a credential as its provider takes it, for those who make one.
func Credential(at kek.Table, c config.Credential) sealed.File {
	return sealed.File{At: at, Name: c.Name, Path: c.Path, TPM2Device: c.TPM2Device}
}

// Check returns why the active provider cannot be used, or nil. Providers that only unwrap may be
// gone for good reasons, so they are not asked.
func Check(set *kek.Set) error {
	if broken, ok := set.Active.(*kek.Broken); ok {
		return broken.Err
	}
	return nil
}
