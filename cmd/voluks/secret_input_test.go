// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/recovery"
)

// The recovery identity comes from a file, from standard input or from a person, and what is no identity is not repeated. F41
func TestIdentities(t *testing.T) {
	const text = "AGE-SECRET-KEY-18ARAHZCHMAN2Z9A5KMAANVUMNJK0KMUX92LDV6W4GXLW9K9KZLFS3SAYY3"
	file := filepath.Join(t.TempDir(), "identity")
	if err := os.WriteFile(file, []byte("# kept in the safe\n"+text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	one := func(name string, got []recovery.Identity, err error) {
		t.Helper()
		if err != nil || len(got) != 1 || got[0].Recipient().Fingerprint() != "3ac5768c1a02b241" {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	e := &env{stdin: in, stdout: os.Stderr}
	got, err := e.identities(t.Context(), file)
	one("file", got, err)
	got, err = e.identities(t.Context(), "-")
	one("standard input", got, err)
	var refused *refusedError
	if _, err := e.identities(t.Context(), ""); !errors.As(err, &refused) {
		t.Errorf("nobody there: %v", err)
	}
	if err := os.WriteFile(file, []byte(text[:40]+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := e.identities(t.Context(), file); !errors.Is(err, recovery.ErrIdentity) || strings.Contains(err.Error(), text[15:30]) {
		t.Errorf("half of one: %v", err)
	}
	p, e := terminal(t)
	go func() { p.sees(`AGE-SECRET-KEY-...\): $`); p.types(text) }()
	got, err = e.identities(t.Context(), "")
	one("typed", got, err)
	if recoveryIdentityFlag().Name != "recovery-identity" {
		t.Error("not the flag that hints name")
	}
}
