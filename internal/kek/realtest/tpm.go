// SPDX-License-Identifier: Apache-2.0

package realtest

import (
	"bytes"
	"fmt"
	"net"
	"os/exec"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/testenv"
)

// NewTPM starts a new software TPM, which runs until the test ends or stop is called. The device is its name for tpm2-tools and systemd. It has no
// resource manager: one program at a time can use it.
func NewTPM(t *testing.T) (device string, stop func()) {
	t.Helper()
	onDemand(t)
	for _, program := range []string{"swtpm", "tpm2_pcrextend"} {
		if _, err := exec.LookPath(program); err != nil {
			testenv.Missing(t, Feature, "packages swtpm and tpm2-tools: "+err.Error())
		}
	}
	port := freePorts(t)
	state := t.TempDir()
	var said bytes.Buffer
	cmd := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+state, "--flags", "not-need-init,startup-clear",
		"--server", fmt.Sprintf("type=tcp,port=%d", port), "--ctrl", fmt.Sprintf("type=tcp,port=%d", port+1))
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	t.Cleanup(stop)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		control, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port+1)) // the other port takes one client, once
		if err == nil {
			control.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("swtpm does not listen: %s", said.String())
		}
	}
	return fmt.Sprintf("swtpm:host=127.0.0.1,port=%d", port), stop
}

// freePorts finds two neighbouring ports: where the control port is, is a rule of the TPM's clients.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 100 {
		first, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		port := first.Addr().(*net.TCPAddr).Port
		second, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port+1))
		first.Close()
		if err == nil {
			second.Close()
			return port
		}
	}
	t.Fatal("no two neighbouring ports are free")
	return 0
}
