// SPDX-License-Identifier: Apache-2.0

// Package sealed is the encrypted file of a systemd credential that holds a master key: systemd-creds makes it and decrypts it, with the clear text in
// pipes and locked memory only.
package sealed

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/voluks/voluks/internal/atomicfile"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/subprocess"
	"github.com/voluks/voluks/internal/kek/wire"
	"github.com/voluks/voluks/internal/lateregexp"
	"github.com/voluks/voluks/internal/secret"
)

// DefaultName is what the credential is called unless the configuration says otherwise.
const DefaultName = "voluks-kek"

// What a credential can be sealed to.
const (
	TPM2    = "the TPM2 of this node"
	HostKey = "the host key of this installation"
)

const program = "/usr/bin/systemd-creds"

// maxSealed is far more than 32 bytes sealed to a TPM take.
const maxSealed = 64 << 10

// File says which file it is.
type File struct {
	// At is the dotted name of these settings in the configuration, for errors: "kek.credential".
	At kek.Table
	// Name is the credential's name, which is sealed into it. "" is DefaultName.
	Name string
	// Path is absolute.
	Path string
	// TPM2Device is "" for the one that systemd finds.
	TPM2Device string
}

var credentialName = lateregexp.New(`^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}$`)

// Check fills in what is left out and judges the rest without a look at the file. Errors are *kek.ConfigError.
func (f *File) Check() error {
	if f.Name == "" {
		f.Name = DefaultName
	}
	switch {
	case !credentialName().MatchString(f.Name):
		return f.At.Bad("name", "%q is not the name of a credential", f.Name)
	case !filepath.IsAbs(f.Path):
		return f.At.Bad("path", "%q is not the absolute path of an encrypted credential", f.Path)
	}
	return nil
}

// Open returns the key, which the caller wipes. A credential that is sealed to nothing is refused. Errors are, or wrap, *kek.ConfigError; one that may
// pass is kek.ErrUnavailable too.
func (f *File) Open(ctx context.Context) (*secret.Key, error) {
	content, err := atomicfile.Read(f.Path, maxSealed)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, f.At.Bad("path", `%s does not exist; "voluks init --credential" makes it: %w`, f.Path, err)
	}
	if err != nil {
		return nil, f.At.Bad("path", "%w", err)
	}
	if _, err := keysOf(content); err != nil {
		return nil, f.At.Bad("path", "%s %w", f.Path, err)
	}
	return f.decrypt(ctx, content)
}

func (f *File) decrypt(ctx context.Context, content []byte) (*secret.Key, error) {
	out, err := f.run(ctx, content, kek.KeySize+1, "decrypt", "--newline=no")
	if err != nil {
		return nil, err
	}
	key, err := out.Key(kek.KeySize)
	if err != nil {
		return nil, f.At.Bad("path", "%s is not a key of %d bytes: %w", f.Path, kek.KeySize, err)
	}
	return key, nil
}

// kinds are the first 16 bytes of a credential: how systemd has encrypted it.
var kinds = map[string][]string{
	"5a1c6a86df9d4096b1d5a65e0862f19a": {HostKey},
	"0c7cc07b117645919c4b0bea08bc20fe": {TPM2},
	"faf7eb9341e3412ca1a436f95a29362f": {TPM2}, // with a signed policy
	"93a894094874449090caf2fc93cab553": {TPM2, HostKey},
	"af4950a849134eb1a73846304ff30c05": {TPM2, HostKey}, // with a signed policy
	"058469daf6f54324800549da0f8ea2fb": {},              // no key: what systemd falls back to where there is no TPM
}

// keysOf says which keys are needed to decrypt a credential, as systemd-creds writes it. What is no credential, or of a kind that this version does not
// know, or needs no key, is an error.
func keysOf(content []byte) ([]string, error) {
	decoded, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(content)), ""))
	if err != nil || len(decoded) < 16 {
		return nil, errors.New("is not an encrypted credential")
	}
	keys, known := kinds[hex.EncodeToString(decoded[:16])]
	switch {
	case !known:
		return nil, fmt.Errorf("is not an encrypted credential of a kind that is known here (%x)", decoded[:16])
	case len(keys) == 0:
		return nil, errors.New("is encrypted with no key at all, so that anybody can decrypt it")
	}
	return keys, nil
}

// causes sort the failures of systemd-creds, which ends with status 1 whatever they are.
var causes = []kek.Cause{
	{Said: "tcti|tpm2 support is not|tpm2 not supported|no tpm2 device", Setting: "tpm2_device", Kind: kek.ErrUnavailable, Means: "the TPM cannot be used now"},
}

// run has systemd-creds make its output, at most maxOut bytes, of the input.
func (f *File) run(ctx context.Context, stdin []byte, maxOut int, verb string, options ...string) (*wire.Buffer, error) {
	argv := append([]string{program, verb, "--name=" + f.Name}, options...)
	if f.TPM2Device != "" {
		argv = append(argv, "--tpm2-device="+f.TPM2Device)
	}
	out, err := subprocess.Cmd{Argv: append(argv, "-", "-"), Env: environment(), Stdin: stdin, MaxOut: maxOut}.Run(ctx)
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, f.At.Bad("", "systemd-creds is not installed; it comes with systemd 250 and later: %w", err)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: %w", kek.ErrUnavailable, f.At.Bad("path", "%w", err))
	}
	if known := f.At.Explain(err, causes); known != nil {
		return nil, known
	}
	return nil, f.At.Bad("path", "%w", err)
}

// environment is what systemd-creds gets of ours: where the host key is, if not in its usual place.
func environment() []string {
	return subprocess.Env("/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_CREDENTIAL_SECRET")
}
