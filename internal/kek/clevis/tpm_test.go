// SPDX-License-Identifier: Apache-2.0

package clevis_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/realtest"
	"github.com/voluks/voluks/internal/testenv"
)

// tpm has the pin tpm2 use a software TPM. That one has no resource manager, as a kernel's TPM has one, so that one program at a time can use it;
// hence no conformance suite, which asks from several sides at once.
func tpm(t *testing.T) (stop func()) {
	t.Helper()
	device, stop := realtest.NewTPM(t)
	if _, err := exec.LookPath("clevis-encrypt-tpm2"); err != nil {
		testenv.Missing(t, realtest.Feature, "package clevis-tpm2: "+err.Error())
	}
	t.Setenv("TPM2TOOLS_TCTI", device)
	return stop
}

// F28, F29, F40
func TestTPM(t *testing.T) {
	stop := tpm(t)
	p := open(t, "tpm2", `{"pcr_ids":"23"}`)
	w, wrap, ref, err := p.Generate(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Wipe()
	t.Logf("the wrap has %d bytes", len(wrap))
	if !ref.SameKey(p.Ref()) || !strings.HasPrefix(ref.ID, "tpm2:") {
		t.Errorf("wrapped by %v", ref)
	}
	got, err := open(t, "tpm2", `{"pcr_ids":[23],"hash":"sha256"}`).Unwrap(t.Context(), binding, ref, wrap)
	if err != nil || !got.Equal(w) {
		t.Errorf("unwrap: %v", err)
	}
	got.Wipe()
	for i := 0; i < len(wrap); i += 97 {
		changed := bytes.Clone(wrap)
		changed[i] ^= 1
		got, err := p.Unwrap(t.Context(), binding, ref, changed)
		if err == nil && !got.Equal(w) || err != nil && !errors.Is(err, kek.ErrWrongKey) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		got.Wipe()
	}

	// The node has booted something else.
	if out, err := exec.Command("tpm2_pcrextend", "23:sha256="+strings.Repeat("a", 64)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := unwraps(t, p, ref, wrap); !errors.Is(err, kek.ErrDenied) {
		t.Errorf("with other PCRs: %v", err)
	}
	stop()
	if err := unwraps(t, p, ref, wrap); !errors.Is(err, kek.ErrUnavailable) {
		t.Errorf("without a TPM: %v", err)
	}
	if _, _, _, err := p.Generate(t.Context(), binding); !errors.Is(err, kek.ErrUnavailable) {
		t.Errorf("generate without a TPM: %v", err)
	}
	if err := os.Unsetenv("TPM2TOOLS_TCTI"); err != nil {
		t.Fatal(err)
	}
	if matches, _ := os.ReadDir("/sys/class/tpmrm"); len(matches) == 0 {
		if err := unwraps(t, p, ref, wrap); !errors.Is(err, kek.ErrUnavailable) {
			t.Errorf("without a device: %v", err)
		}
	}
}

// Another TPM, such as that of the node that the disk was put into.
func TestAnotherTPM(t *testing.T) {
	stop := tpm(t)
	p := open(t, "tpm2", `{}`)
	wrap, ref := generate(t, p)
	stop()
	tpm(t)
	if err := unwraps(t, p, ref, wrap); !errors.Is(err, kek.ErrWrongKey) {
		t.Errorf("got %v", err)
	}
}

// The TPM of this node and a tang server: both are needed, as where the disk and the node are stolen together.
func TestMix(t *testing.T) {
	server := realtest.NewTang(t)
	tpm(t)
	p := open(t, "sss", fmt.Sprintf(`{"t":2,"pins":{"tpm2":{},"tang":%s}}`, server.Policy()))
	wrap, ref := generate(t, p)
	if err := unwraps(t, p, ref, wrap); err != nil {
		t.Error(err)
	}
	server.Stop()
	if err := unwraps(t, p, ref, wrap); !errors.Is(err, kek.ErrUnavailable) {
		t.Errorf("without the server: %v", err)
	}
}
