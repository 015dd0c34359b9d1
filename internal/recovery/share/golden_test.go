// SPDX-License-Identifier: Apache-2.0

package share

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Paper does not get updates: shares that were printed by version 1 combine for ever. The folder of each is named after what was split.
func TestSharesOfVersion1(t *testing.T) {
	folders, err := filepath.Glob("testdata/v1/*")
	if err != nil || len(folders) != 2 {
		t.Fatalf("%d folders: %v", len(folders), err)
	}
	for _, folder := range folders {
		want, err := os.ReadFile(filepath.Join(folder, "identity"))
		if err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(folder, "share-*"))
		if err != nil || len(files) < 2 {
			t.Fatalf("%s: %d shares: %v", folder, len(files), err)
		}
		var shares []*Share
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			shares = append(shares, parse(t, string(text)))
		}
		// The last ones: the first are what a wrong order would happen to find.
		got, _, err := Combine(shares[len(shares)-shares[0].Needed:])
		if err != nil {
			t.Fatalf("%s: %v", folder, err)
		}
		if !got.Equal(key(t, strings.TrimSpace(string(want)))) {
			t.Errorf("%s: another identity came back", folder)
		}
		got.Wipe()
	}
}
