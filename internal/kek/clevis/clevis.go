// SPDX-License-Identifier: Apache-2.0

// Package clevis is the key provider whose keys are kept by a policy of Clevis: by tang servers on the network, by the TPM of this node, by a PKCS#11
// token, or by a threshold over several of these. It runs Debian's clevis, with secrets in pipes alone.
//
// A wrap is a JWE in compact form. Clevis ties it to nothing; what ties W to its volume and role is that the slot key under it is sealed with
// associated data of our own. Clevis renews nothing either: a wrap for a tang server's new keys is a new W.
package clevis

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/subprocess"
	"github.com/voluks/voluks/internal/kek/wire"
	"github.com/voluks/voluks/internal/secret"
)

const (
	name = "clevis"
	// searched is where the programs of clevis are, and those that they call.
	searched = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// Settings are a policy as "clevis encrypt PIN POLICY" takes it.
type Settings struct {
	// At is the dotted name of these settings in the configuration, for errors: "kek.clevis".
	At string
	// Pin is tang, tpm2, pkcs11 or sss.
	Pin string
	// Policy is the configuration of the pin, in JSON. It is public.
	Policy string
	// Path is where programs are looked for, in the form of $PATH; "" is the usual directories. For tests.
	Path string
}

func (s *Settings) bad(setting, format string, args ...any) error {
	return &kek.ConfigError{Setting: s.At + "." + setting, Err: fmt.Errorf(format, args...)}
}

// packages are Debian's names of what holds the programs.
var packages = map[string]string{"tpm2": "clevis-tpm2", "pkcs11": "clevis-pkcs11"}

// Provider wraps by one policy.
type Provider struct {
	settings Settings
	program  string
	policy   policy
	text     string
	ref      kek.Ref
}

// New judges the settings and looks for the programs; it runs none. Errors are *kek.ConfigError.
func New(s Settings) (kek.Provider, error) {
	if s.Path == "" {
		s.Path = searched
	}
	switch s.Pin {
	case "":
		return nil, s.bad("pin", "is missing; it is tang, tpm2, pkcs11 or sss")
	case "tang", "tpm2", "pkcs11", "sss":
	default:
		_, err := newPolicy(s.Pin, nil, 1)
		return nil, s.bad("pin", "%w", err)
	}
	if s.Policy == "" {
		return nil, s.bad("policy", `is missing; it is what "clevis encrypt %s" takes, in JSON`, s.Pin)
	}
	policy, err := parsePolicy(s.Pin, s.Policy)
	if err != nil {
		return nil, s.bad("policy", "%w", err)
	}
	p := &Provider{settings: s, policy: policy}
	if p.text, err = policy.text(); err != nil {
		return nil, s.bad("policy", "%w", err)
	}
	id, err := policy.id()
	if err != nil {
		return nil, s.bad("policy", "%w", err)
	}
	p.ref = kek.Ref{Provider: name, ID: id, Version: policy.version()}
	if p.program = s.look("clevis"); p.program == "" {
		return nil, s.bad("pin", "clevis is not installed; install the package clevis")
	}
	for _, pin := range policy.pins() {
		if s.look("clevis-encrypt-"+pin) == "" || s.look("clevis-decrypt-"+pin) == "" {
			pkg := packages[pin]
			if pkg == "" {
				pkg = "clevis"
			}
			return nil, s.bad("pin", "clevis has no pin %s here; install the package %s", pin, pkg)
		}
	}
	return p, nil
}

func (s *Settings) look(program string) string {
	for _, dir := range filepath.SplitList(s.Path) {
		path := filepath.Join(dir, program)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return path
		}
	}
	return ""
}

// Ref names the policy by pin and fingerprint. The thumbprints of tang servers are its version: so the key outlives the rotation of theirs, and what
// was wrapped before it is known to be due.
func (p *Provider) Ref() kek.Ref { return p.ref }

// Generate makes a random W and has it encrypted.
func (p *Provider) Generate(ctx context.Context, b kek.Binding) (w *secret.Key, wrap []byte, ref kek.Ref, err error) {
	if err := b.Validate(); err != nil {
		return nil, nil, kek.Ref{}, err
	}
	made, err := secret.Random(kek.KeySize)
	if err != nil {
		return nil, nil, kek.Ref{}, err
	}
	defer func() {
		if err != nil {
			made.Wipe() // not w: a return has set that to nil by now
		}
	}()
	out, err := p.run(ctx, made.Bytes(), kek.MaxWrap, "encrypt", p.settings.Pin, p.text)
	runtime.KeepAlive(made)
	if err != nil {
		return nil, nil, kek.Ref{}, p.encryptError(ctx, err)
	}
	defer out.Wipe()
	wrap = []byte(strings.TrimSpace(string(out.Bytes())))
	if _, err := p.policy.made(wrap); err != nil {
		return nil, nil, kek.Ref{}, p.settings.bad("policy", "what clevis made of it %w", err)
	}
	return made, wrap, p.ref, nil
}

// Unwrap has W decrypted.
func (p *Provider) Unwrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) (*secret.Key, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	if !ref.SameKey(p.ref) {
		return nil, &kek.NotMineError{Want: ref, Have: p.ref}
	}
	if len(wrap) > kek.MaxWrap {
		return nil, fmt.Errorf("%w: a wrap of %d bytes", kek.ErrWrongKey, len(wrap))
	}
	header, err := p.policy.made(wrap)
	if err != nil {
		return nil, fmt.Errorf("%w: the wrap %w", kek.ErrWrongKey, err)
	}
	out, err := p.run(ctx, wrap, kek.KeySize+1, "decrypt")
	if err != nil {
		return nil, p.decryptError(ctx, err, header)
	}
	w, err := out.Key(kek.KeySize)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", kek.ErrWrongKey, p.settings.bad("policy", "what clevis decrypted: %w", err))
	}
	return w, nil
}

// run runs clevis. Its shell scripts keep what they pass on in pipes; should bash put a part of it into a file after all, that is in memory, in a
// directory that goes with the call.
func (p *Provider) run(ctx context.Context, stdin []byte, maxOut int, args ...string) (*wire.Buffer, error) {
	temp, err := memoryDir()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(temp)
	env := []string{"PATH=" + p.settings.Path, "LC_ALL=C", "HOME=/", "TMPDIR=" + temp}
	for _, name := range []string{"TPM2TOOLS_TCTI", "http_proxy", "https_proxy", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "SSL_CERT_FILE", "CURL_CA_BUNDLE"} {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return subprocess.Cmd{Argv: append([]string{p.program}, args...), Env: env, Stdin: stdin, MaxOut: maxOut}.Run(ctx)
}

func memoryDir() (string, error) {
	for _, dir := range []string{"/run", "/dev/shm"} {
		if temp, err := os.MkdirTemp(dir, "voluks-clevis-"); err == nil {
			return temp, nil
		}
	}
	return os.MkdirTemp("", "voluks-clevis-")
}
