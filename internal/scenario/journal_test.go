// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// What happened to a volume is found by its name, with the operation that Docker was told, and nothing in the journal is a key. F41
func TestJournalByVolume(t *testing.T) {
	full(t)
	v := newVolume(t, "journaled")
	output(t, "docker", "run", "--rm", "--network", "none", "-v", v+":/d", image, "true")
	output(t, "journalctl", "--sync")
	var created, mounted bool
	for line := range strings.Lines(output(t, "journalctl", "-b", "-o", "json", "VOLUKS_VOLUME="+v)) {
		var entry struct {
			Message   string `json:"MESSAGE"`
			Operation string `json:"VOLUKS_OPERATION"`
			Priority  string `json:"PRIORITY"`
			Unit      string `json:"_SYSTEMD_UNIT"`
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if entry.Unit != "voluks.service" || entry.Operation == "" || entry.Priority != "6" {
			t.Errorf("%+v", entry)
		}
		created = created || strings.HasPrefix(entry.Message, "created ")
		mounted = mounted || strings.HasPrefix(entry.Message, "mounted ")
	}
	if !created || !mounted {
		t.Errorf("created: %v, mounted: %v", created, mounted)
	}

	// An error has its text in a field of its own, and is found by the volume too when a unit met it.
	refused(t, "voluks", "boot", "mount", "voluks:"+v, "/srv")
	refused(t, "systemd-run", "--quiet", "--wait", "/usr/bin/voluks", "boot", "mount", "voluks:"+v, "/srv")
	output(t, "journalctl", "--sync")
	if out := output(t, "journalctl", "-b", "-o", "json", "--output-fields=VOLUKS_ERROR", "VOLUKS_VOLUME="+v); !strings.Contains(out, "it is not mounted") {
		t.Errorf("the error of a unit is not under its volume: %s", out)
	}

	key, err := os.ReadFile("/etc/voluks/master.key")
	if err != nil {
		t.Fatal(err)
	}
	all, err := exec.Command("journalctl", "-b", "-o", "export").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, form := range []string{string(key), hex.EncodeToString(key), base64.StdEncoding.EncodeToString(key)} {
		if strings.Contains(string(all), form) {
			t.Error("the master key is in the journal")
		}
	}
}
