// SPDX-License-Identifier: Apache-2.0

package crashpoint

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// enabled says whether this build obeys: a release build does not, whatever the environment says.
var enabled = false

func TestHit(t *testing.T) {
	if os.Getenv("VOLUKS_CRASH_AT") == "here" {
		Hit("there")
		Hit("here")
		os.Exit(0)
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=TestHit")
	cmd.Env = append(os.Environ(), "VOLUKS_CRASH_AT=here")
	err := cmd.Run()
	var exit *exec.ExitError
	killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	if killed != enabled {
		t.Errorf("enabled %t: %v", enabled, err)
	}
}
