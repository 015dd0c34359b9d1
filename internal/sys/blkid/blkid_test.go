// SPDX-License-Identifier: Apache-2.0

package blkid

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func TestParse(t *testing.T) {
	for in, want := range map[string]Found{
		"DEVNAME=/proc/self/fd/3\nUUID=1-2\nTYPE=ext4\nUSAGE=filesystem\n": {Type: "ext4", UUID: "1-2"},
		"LABEL=a\\ b\\\"c\nTYPE=xfs":                                       {Type: "xfs", Label: `a b"c`},
		"PTTYPE=gpt\nPTUUID=1\n":                                           {PartitionTable: "gpt"},
		"TYPE=vfat\nPTTYPE=dos\n":                                          {Type: "vfat", PartitionTable: "dos"},
		"":                                                                 {},
		"TYPE\n=\n":                                                        {},
	} {
		if got := parse([]byte(in)); got != want {
			t.Errorf("%q: %+v", in, got)
		}
	}
	for f, want := range map[Found]string{
		{Type: "ext4"}:                        "ext4",
		{PartitionTable: "gpt"}:               "gpt partition table",
		{Type: "vfat", PartitionTable: "dos"}: "vfat and a dos partition table",
	} {
		if f.String() != want {
			t.Errorf("%q", f.String())
		}
	}
}

// F2: "nothing found" is checked against the device.
func TestNothingIsNotBelievedBlindly(t *testing.T) {
	bin := t.TempDir()
	script := func(s string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(bin, "blkid"), []byte("#!/bin/sh\n"+s), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	path := filepath.Join(t.TempDir(), "device")
	for _, s := range signatures {
		if err := os.WriteFile(path, make([]byte, 4<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		script("exit 2\n")
		if found, err := Path(t.Context(), path); err != nil || found != nil {
			t.Fatalf("the control: %+v, %v", found, err)
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte(s.magic), int64(s.offset))
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		if found, err := Path(t.Context(), path); err == nil || !strings.Contains(err.Error(), s.name) {
			t.Errorf("%s: %+v, %v", s.name, found, err)
		}
	}
	if err := os.WriteFile(path, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	script("truncate -s 2M " + path + "; exit 2\n")
	if found, err := Path(t.Context(), path); err == nil {
		t.Errorf("a device that shrank meanwhile: %+v", found)
	}
	script("truncate -s 8M " + path + "; exit 2\n")
	if found, err := Path(t.Context(), path); err == nil {
		t.Errorf("a device that grew meanwhile: %+v", found)
	}
}

// It probes what is open, whatever the path leads to by now.
func TestProbesTheOpenDevice(t *testing.T) {
	bin := t.TempDir()
	path := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(path, append(make([]byte, 1<<20), "open"...), 0o600); err != nil {
		t.Fatal(err)
	}
	// The last argument is what to probe.
	script := "#!/bin/sh\nmv " + path + " " + path + ".moved; echo other >" + path + "\nfor last; do :; done\necho TYPE=$(tail -c 4 $last)\n"
	if err := os.WriteFile(filepath.Join(bin, "blkid"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	if found, err := Path(t.Context(), path); err != nil || found.Type != "open" {
		t.Errorf("%+v, %v", found, err)
	}
}
