// SPDX-License-Identifier: Apache-2.0

package kek_test

import (
	"errors"
	"testing"

	"github.com/voluks/voluks/internal/kek"
)

// What a keeper says is told apart by its words, whatever their case; its own words stay in the error, and the setting is named.
func TestExplain(t *testing.T) {
	causes := []kek.Cause{
		{Said: "no such key|key not found", Setting: "key", Kind: kek.ErrNotFound, Means: "there is none"},
		{Said: "denied", Setting: ".", Kind: kek.ErrDenied, Means: "it refuses"},
		{Said: "asleep", Kind: kek.ErrUnavailable, Means: "it sleeps"},
		{Said: "odd", Setting: "mount", Means: "is odd"},
	}
	for said, want := range map[string]struct {
		kind    error
		setting string
		text    string
	}{
		"Key Not Found: k": {kek.ErrNotFound, "kek.x.key", "key does not exist: kek.x.key: there is none (Key Not Found: k)"},
		"access denied":    {kek.ErrDenied, "kek.x", "key provider denies access: kek.x: it refuses (access denied)"},
		"asleep":           {kek.ErrUnavailable, "", "key provider is not available: it sleeps (asleep)"},
		"odd":              {nil, "kek.x.mount", "kek.x.mount: is odd (odd)"},
	} {
		keeper := errors.New(said)
		err := kek.Table("kek.x").Explain(keeper, causes)
		var setting *kek.ConfigError
		named := ""
		if errors.As(err, &setting) {
			named = setting.Setting
		}
		if !errors.Is(err, keeper) || want.kind != nil && !errors.Is(err, want.kind) || named != want.setting || err.Error() != want.text {
			t.Errorf("%s: %v", said, err)
		}
	}
	if err := kek.Table("kek.x").Explain(errors.New("something else"), causes); err != nil {
		t.Errorf("explained as %v", err)
	}
}
