// SPDX-License-Identifier: Apache-2.0

// Package clevis is the key provider whose keys are kept by a policy of Clevis: by tang servers on the network, by the TPM of this node, by a PKCS#11
// token, or by a threshold over several of these. It runs Debian's clevis, with secrets in pipes alone.
//
// A wrap is a JWE in compact form. Clevis ties it to nothing; what ties W to its volume and role is that the slot key under it is sealed with
// associated data of our own. Clevis renews nothing either: a wrap for a tang server's new keys is a new W.
package clevis

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/clevis/policy"
	"github.com/voluks/voluks/internal/kek/subprocess"
	"github.com/voluks/voluks/internal/kek/wire"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
)

// searched is where the programs of clevis are, and those that they call.
const searched = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// packages are Debian's names of what holds the programs, where that is not clevis.
var packages = map[string]string{"tpm2": "clevis-tpm2", "pkcs11": "clevis in its version 24 or later, as of Debian 14, with clevis-luks and opensc"}

// provider wraps by one policy.
type provider struct {
	at      kek.Table
	pin     string
	policy  *policy.Policy
	path    string // as in $PATH
	pinFile string
	program string
	ref     kek.Ref
}

// New judges the settings and looks for the programs; it runs none. Errors are *kek.ConfigError.
func New(at kek.Table, s config.Clevis) (kek.Provider, error) {
	return newIn(searched, policy.PINFile, at, s)
}

func newIn(path, pinFile string, at kek.Table, s config.Clevis) (kek.Provider, error) {
	if err := policy.CheckPin(s.Pin); err != nil {
		return nil, at.Bad("pin", "%w", err)
	}
	parsed, err := policy.Parse(s.Pin, s.Policy)
	if err != nil {
		return nil, at.Bad("policy", "%w", err)
	}
	p := &provider{at, s.Pin, parsed, path, pinFile, look(path, "clevis"), kek.Ref{Provider: "clevis", ID: parsed.ID(), Version: parsed.Version()}}
	if p.program == "" {
		return nil, at.Bad("pin", "clevis is not installed; install the package clevis")
	}
	for _, pin := range parsed.Pins() {
		if look(path, "clevis-encrypt-"+pin) == "" || look(path, "clevis-decrypt-"+pin) == "" {
			return nil, at.Bad("pin", "clevis has no pin %s here; install the package %s", pin, cmp.Or(packages[pin], "clevis"))
		}
	}
	return p, nil
}

// look is exec.LookPath, in another $PATH than that of this process.
func look(path, program string) string {
	for _, dir := range filepath.SplitList(path) {
		if found, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return found
		}
	}
	return ""
}

// Ref names the policy by pin and fingerprint. The thumbprints of tang servers are its version: so the key outlives the rotation of theirs, and what
// was wrapped before it is known to be due.
func (p *provider) Ref() kek.Ref { return p.ref }

// Generate makes a random W and has it encrypted.
func (p *provider) Generate(ctx context.Context, b kek.Binding) (*secret.Key, []byte, kek.Ref, error) {
	return kek.Make(b, func(w *secret.Key) ([]byte, kek.Ref, error) {
		out, err := p.run(ctx, w.Bytes(), kek.MaxWrap, "encrypt", p.pin, p.policy.Text())
		if err != nil {
			return nil, kek.Ref{}, p.encryptError(ctx, err)
		}
		defer out.Wipe()
		wrap := bytes.Clone(bytes.TrimSpace(out.Bytes()))
		if _, err := p.policy.Made(wrap); err != nil {
			return nil, kek.Ref{}, p.at.Bad("policy", "what clevis made of it %w", err)
		}
		return wrap, p.ref, nil
	})
}

// Unwrap has W decrypted.
func (p *provider) Unwrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) (*secret.Key, error) {
	if err := p.ref.CanOpen(b, ref, wrap); err != nil {
		return nil, err
	}
	shares, err := p.policy.Made(wrap)
	if err != nil {
		return nil, fmt.Errorf("%w: the wrap %w", kek.ErrWrongKey, err)
	}
	if pin, err := os.Open(p.pinFile); err == nil { // one at a time, so that a PIN which the token refuses is tried once, and gone then
		defer pin.Close()
		if err := sys.LockWait(ctx, pin); err != nil {
			return nil, fmt.Errorf("%w: another one asks the token: %w", kek.ErrUnavailable, err)
		}
	}
	out, err := p.run(ctx, wrap, kek.KeySize+1, "decrypt")
	if err != nil {
		return nil, p.decryptError(ctx, err, shares)
	}
	w, err := out.Key(kek.KeySize)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", kek.ErrWrongKey, p.at.Bad("policy", "what clevis decrypted: %w", err))
	}
	return w, nil
}

// run runs clevis. Its shell scripts keep what they pass on in pipes; should bash put a part of it into a file after all, that is in memory, in a
// directory that goes with the call.
func (p *provider) run(ctx context.Context, stdin []byte, maxOut int, args ...string) (*wire.Buffer, error) {
	temp, err := os.MkdirTemp("/run", "voluks-clevis-")
	if err != nil { // not by root
		temp, err = os.MkdirTemp("/dev/shm", "voluks-clevis-")
	}
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	env := append(subprocess.Env(p.path, "TPM2TOOLS_TCTI", "http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "SSL_CERT_FILE", "CURL_CA_BUNDLE"),
		"HOME=/", "TMPDIR="+temp)
	return subprocess.Cmd{Argv: append([]string{p.program}, args...), Env: env, Stdin: stdin, MaxOut: maxOut}.Run(ctx)
}
