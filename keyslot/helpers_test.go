// SPDX-License-Identifier: Apache-2.0

package keyslot_test

import (
	"os/exec"
	"testing"

	"filippo.io/age"

	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/keyslot"
)

func randomKey(t testing.TB) *secret.Key {
	t.Helper()
	key, err := secret.Random(keyslot.KeySize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Wipe)
	return key
}

// tool is the path of a program that is needed.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		testenv.Missing(t, "tools", "the program "+name+" is not installed: run scripts/deps")
	}
	return path
}

// postQuantum makes recipients whose identities are thrown away.
func postQuantum(t testing.TB, n int) []recovery.Recipient {
	t.Helper()
	var texts []string
	for range n {
		identity, err := age.GenerateHybridIdentity()
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, identity.Recipient().String())
	}
	recipients, err := recovery.ParseRecipients(texts)
	if err != nil {
		t.Fatal(err)
	}
	return recipients
}
