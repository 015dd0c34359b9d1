// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// What is running when the power goes.
func TestPowerCutBefore(t *testing.T) {
	phase(t, "before")
	output(t, "docker", "volume", "create", "-d", "voluks", "-o", "size=64M", "cut")
	output(t, "docker", "run", "-d", "--name", "cut1", "--restart", "always", "-v", "cut:/d", image, "sh", "-c",
		"[ -e /d/first ] || { echo acknowledged > /d/first; sync; }; while :; do date >> /d/log; sync; done")
	eventually(t, func() error {
		_, err := try("docker", "exec", "cut1", "test", "-s", "/d/log")
		return err
	})
	output(t, "docker", "volume", "create", "-d", "voluks", "-o", "size=32M", "idle")
}

// After it: the container is back on the same encrypted volume with what it had synced, holders of before are gone. F9 F21 F49
func TestPowerCutAfter(t *testing.T) {
	phase(t, "after")
	eventually(t, func() error { return running("cut1") })
	if got := output(t, "docker", "exec", "cut1", "cat", "/d/first"); got != "acknowledged" {
		t.Errorf("after the power cut: %q", got)
	}
	source := output(t, "docker", "exec", "cut1", "sh", "-c", "awk '$2 == \"/d\" {print $1}' /proc/mounts")
	if !strings.HasPrefix(source, "/dev/mapper/voluks-") && !strings.HasPrefix(source, "/dev/dm-") {
		t.Errorf("/d is on %q", source)
	}
	if ids := holders(t, "cut"); len(ids) != 1 {
		t.Errorf("holders: %q", ids)
	}
	if info := inspect(t, "idle"); info.State != "ready" || len(info.Holders) != 0 {
		t.Errorf("the idle volume: %s, %d holders", info.State, len(info.Holders))
	}
	device := "/dev/mapper/voluks-" + inspect(t, "cut").UUID
	remove(t, "cut1")
	eventually(t, func() error { return closed("cut") })
	if _, err := os.Stat(device); err == nil {
		t.Error(fmt.Errorf("%s is still there", device))
	}
	output(t, "docker", "volume", "rm", "cut", "idle")
}
