// SPDX-License-Identifier: Apache-2.0

package credential

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/voluks/voluks/internal/atomicfile"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/local"
	"github.com/voluks/voluks/internal/kek/subprocess"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
)

// ErrExists means that there is a file already, which is never overwritten: volumes may depend on it.
var ErrExists = errors.New("exists already and is never overwritten")

// What a credential can be sealed to.
const (
	TPM2    = "the TPM2 of this node"
	HostKey = "the host key of this installation"
)

// maxSealed is far more than 32 bytes sealed to a TPM take.
const maxSealed = 64 << 10

// kinds are the first 16 bytes of a credential: how systemd has encrypted it.
var kinds = map[string][]string{
	"5a1c6a86df9d4096b1d5a65e0862f19a": {HostKey},
	"0c7cc07b117645919c4b0bea08bc20fe": {TPM2},
	"faf7eb9341e3412ca1a436f95a29362f": {TPM2}, // with a signed policy
	"93a894094874449090caf2fc93cab553": {TPM2, HostKey},
	"af4950a849134eb1a73846304ff30c05": {TPM2, HostKey}, // with a signed policy
	"058469daf6f54324800549da0f8ea2fb": {},              // no key: what systemd falls back to where there is no TPM
}

// SealedTo says which keys are needed to decrypt a credential, as systemd-creds writes it. None at all is an empty answer. What is no credential, or
// of a kind that this version does not know, is an error.
func SealedTo(sealed []byte) ([]string, error) {
	decoded, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(string(sealed)), ""))
	if err != nil || len(decoded) < 16 {
		return nil, errors.New("is not an encrypted credential")
	}
	keys, known := kinds[hex.EncodeToString(decoded[:16])]
	if !known {
		return nil, fmt.Errorf("is not an encrypted credential of a kind that is known here (%x)", decoded[:16])
	}
	return keys, nil
}

// Create makes a new master key and writes it, encrypted, to s.Path: sealed to the TPM2 and the host key where there is a TPM2 that systemd can use,
// else to the host key alone; sealedTo says which. It proves that the credential opens before it is in place. The key's clear text is in pipes and
// locked memory only. An existing file is ErrExists.
func Create(ctx context.Context, s Settings) (ref kek.Ref, sealedTo []string, err error) {
	if err := s.check(); err != nil {
		return kek.Ref{}, nil, err
	}
	// As systemd has its own, for whom it is usually the first thing in there.
	if err := os.MkdirAll(filepath.Dir(s.Path), 0o700); err != nil {
		return kek.Ref{}, nil, s.At.Bad("path", "%w", err)
	}
	if _, err := os.Lstat(s.Path); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = ErrExists
		}
		return kek.Ref{}, nil, s.At.Bad("path", "%s: %w", s.Path, err)
	}
	master, err := secret.Random(kek.KeySize)
	if err != nil {
		return kek.Ref{}, nil, err
	}
	defer master.Wipe()
	if ref, err = local.Ref(name, master); err != nil {
		return kek.Ref{}, nil, err
	}
	with := "host"
	if s.hasTPM(ctx) {
		with = "host+tpm2"
	}
	args := append([]string{program, "encrypt", "--name=" + s.Name, "--with-key=" + with}, s.tpm()...)
	out, err := subprocess.Cmd{Argv: append(args, "-", "-"), Env: environment(), Stdin: master.Bytes(), MaxOut: maxSealed}.Run(ctx)
	if err != nil {
		return kek.Ref{}, nil, s.failed(ctx, "path", err)
	}
	defer out.Wipe()
	if sealedTo, err = SealedTo(out.Bytes()); err == nil && len(sealedTo) == 0 {
		err = errors.New("is encrypted with no key at all")
	}
	if err != nil {
		return kek.Ref{}, nil, s.At.Bad("path", "what systemd-creds made %w", err)
	}
	if err := s.place(ctx, out.Bytes(), master); err != nil {
		return kek.Ref{}, nil, err
	}
	return ref, sealedTo, nil
}

// place writes the credential under a name of its own, proves that it opens, and then gives it its name, which never replaces another file.
func (s *Settings) place(ctx context.Context, sealed []byte, master *secret.Key) error {
	temp := *s
	temp.Path = filepath.Join(filepath.Dir(s.Path), "."+filepath.Base(s.Path)+".new")
	if err := atomicfile.Write(temp.Path, sealed, 0o600); err != nil {
		return s.At.Bad("path", "%w", err)
	}
	defer os.Remove(temp.Path)
	opened, err := temp.decrypt(ctx)
	if err != nil {
		return fmt.Errorf("prove the new credential: %w", err)
	}
	defer opened.Wipe()
	if !opened.Equal(master) {
		return s.At.Bad("path", "what systemd-creds made decrypts to another key")
	}
	err = os.Link(temp.Path, s.Path)
	if errors.Is(err, fs.ErrExist) {
		return s.At.Bad("path", "%s: %w", s.Path, ErrExists)
	}
	if err == nil {
		err = os.Remove(temp.Path)
	}
	if err == nil {
		err = sys.SyncDir(filepath.Dir(s.Path))
	}
	if err != nil {
		return s.At.Bad("path", "%w", err)
	}
	return nil
}

// hasTPM says whether systemd can use a TPM2: firmware, driver and libraries.
func (s *Settings) hasTPM(ctx context.Context) bool {
	if s.TPM2Device != "" {
		return true
	}
	out, err := subprocess.Cmd{Argv: []string{program, "has-tpm2", "--quiet"}, Env: environment(), MaxOut: 1 << 10}.Run(ctx)
	out.Wipe()
	return err == nil
}

// failed sorts the failures of systemd-creds, which ends with status 1 whatever they are.
func (s *Settings) failed(ctx context.Context, setting string, err error) error {
	var exit *subprocess.ExitError
	bad := s.At.Bad(setting, "%w", err)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s.At.Bad("", "systemd-creds is not installed; it comes with systemd 250 and later: %w", err)
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", kek.ErrUnavailable, bad)
	case !errors.As(err, &exit):
		return bad
	}
	said := strings.ToLower(exit.Stderr)
	for _, words := range []string{"tcti", "tpm2 support is not", "tpm2 not supported", "no tpm2 device"} {
		if strings.Contains(said, words) {
			return fmt.Errorf("%w: the TPM cannot be used now: %w", kek.ErrUnavailable, bad)
		}
	}
	return bad
}

func readSealed(path string) ([]byte, error) { return atomicfile.Read(path, maxSealed) }

// environment is what systemd-creds gets of ours: where the host key is, if not in its usual place.
func environment() []string {
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	if value, ok := os.LookupEnv("SYSTEMD_CREDENTIAL_SECRET"); ok {
		env = append(env, "SYSTEMD_CREDENTIAL_SECRET="+value)
	}
	return env
}
