// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/testenv"
)

// TestMain fails the run if the tests leave something of voluks in the kernel. The phases around a power cut leave it on purpose.
func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getenv(testenv.VarGuest) == "full" && os.Getenv("VOLUKS_PHASE") == "" {
		var left []string
		for end := time.Now().Add(patient); ; time.Sleep(200 * time.Millisecond) {
			if left = inKernel(); len(left) == 0 || time.Now().After(end) {
				break
			}
		}
		if len(left) > 0 {
			fmt.Fprintf(os.Stderr, "left by the scenarios:\n\t%s\n", strings.Join(left, "\n\t"))
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// inKernel is what the kernel has of voluks: mappings, loop devices, mounts. What cannot be found out counts.
func inKernel() (all []string) {
	out, err := exec.Command("dmsetup", "ls", "--target", "crypt").Output()
	if err != nil {
		all = append(all, "dmsetup: "+err.Error())
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "voluks-") {
			all = append(all, "mapping "+strings.TrimSpace(line))
		}
	}
	loops, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, file := range loops {
		if backing, _ := os.ReadFile(file); strings.HasPrefix(string(backing), "/var/lib/voluks/") {
			all = append(all, file+": "+strings.TrimSpace(string(backing)))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		all = append(all, err.Error())
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "/dev/mapper/voluks-") || strings.Contains(line, " /var/lib/voluks/mnt/") {
			all = append(all, "mount "+strings.TrimSpace(line))
		}
	}
	return all
}
