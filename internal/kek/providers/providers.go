// SPDX-License-Identifier: Apache-2.0

// Package providers makes the key providers of a configuration. It is the one package that knows all
// of them.
package providers

import (
	"fmt"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/file"
)

// Open makes the set of a configuration. A provider that cannot be used does not keep the others from
// unlocking: it becomes a kek.Broken with a *kek.ConfigError, which also says what is wrong to those
// who ask before they need it, as Check does.
func Open(cfg config.Config) *kek.Set {
	set := &kek.Set{Active: open("kek", cfg.KEK)}
	for i, previous := range cfg.Previous {
		set.Previous = append(set.Previous, open(fmt.Sprintf("previous[%d]", i), previous))
	}
	return set
}

func open(at string, cfg config.KEK) kek.Provider {
	var provider kek.Provider
	var err error
	switch {
	case cfg.Provider == "file" && cfg.File != nil:
		provider, err = file.New(cfg.File.Path)
		at += ".file.path"
	default:
		err = fmt.Errorf("unknown key provider %q", cfg.Provider)
		at += ".provider"
	}
	if err != nil {
		return &kek.Broken{Name: cfg.Provider, Err: &kek.ConfigError{Setting: at, Err: err}}
	}
	return provider
}

// Check returns why the active provider cannot be used, or nil. Providers that only unwrap may be
// gone for good reasons, so they are not asked.
func Check(set *kek.Set) error {
	if broken, ok := set.Active.(*kek.Broken); ok {
		return broken.Err
	}
	return nil
}
