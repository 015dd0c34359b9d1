// SPDX-License-Identifier: Apache-2.0

package providers_test

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/file"
	"github.com/voluks/voluks/internal/kek/keyfile"
	"github.com/voluks/voluks/internal/kek/providers"
)

var binding = kek.Binding{VolumeUUID: "6f2a1c1e-7d1e-4b7e-8a55-52f0a4d1c0de", Role: "agent"}

func node(t *testing.T) config.Config {
	t.Helper()
	p := config.PathsUnder(t.TempDir())
	if err := os.MkdirAll(p.Config, 0o755); err != nil {
		t.Fatal(err)
	}
	return config.Default(p)
}

func TestOpen(t *testing.T) {
	cfg := node(t)
	want, err := file.Generate(cfg.KEK.File.Path)
	if err != nil {
		t.Fatal(err)
	}
	set := providers.Open(cfg)
	if err := providers.Check(set); err != nil || set.Active.Ref() != want {
		t.Errorf("got %v, %v", set.Active.Ref(), err)
	}
}

// F7 F28: a missing master key refuses new volumes with the setting's name, and does not keep the
// previous one from unlocking.
func TestActiveMissing(t *testing.T) {
	cfg := node(t)
	old := cfg.KEK.File.Path + ".old"
	if _, err := file.Generate(old); err != nil {
		t.Fatal(err)
	}
	previous := config.KEK{Provider: "file", File: &config.File{Path: old}}
	w, wrap, ref, err := providers.Open(config.Config{KEK: previous}).Generate(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	w.Wipe()

	cfg.Previous = []config.KEK{previous}
	set := providers.Open(cfg)
	if w, err = set.Unwrap(t.Context(), binding, ref, wrap); err != nil {
		t.Fatal(err)
	}
	w.Wipe()
	_, _, _, err = set.Generate(t.Context(), binding)
	for what, err := range map[string]error{"generate": err, "check": providers.Check(set)} {
		var setting *kek.ConfigError
		if !errors.As(err, &setting) || setting.Setting != "kek.file.path" || !errors.Is(err, keyfile.ErrMissing) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}

	// Both gone: the volume's error says which key it wants, and what is wrong with the settings.
	if err := os.Remove(old); err != nil {
		t.Fatal(err)
	}
	_, err = providers.Open(cfg).Unwrap(t.Context(), binding, ref, wrap)
	var none *kek.NoProviderError
	if !errors.As(err, &none) || none.Want != ref || !errors.Is(err, keyfile.ErrMissing) {
		t.Errorf("got %v", err)
	}
	for _, setting := range []string{"kek.file.path", "previous[0].file.path"} {
		if err == nil || !strings.Contains(err.Error(), setting) {
			t.Errorf("%v does not name %s", err, setting)
		}
	}
}

func TestUnknown(t *testing.T) {
	err := providers.Check(providers.Open(config.Config{KEK: config.KEK{Provider: "vault"}}))
	var setting *kek.ConfigError
	if !errors.As(err, &setting) || setting.Setting != "kek.provider" {
		t.Errorf("got %v", err)
	}
}
