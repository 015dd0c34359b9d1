// SPDX-License-Identifier: Apache-2.0

package sealed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/voluks/voluks/internal/atomicfile"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/keyfile"
	"github.com/voluks/voluks/internal/kek/subprocess"
	"github.com/voluks/voluks/internal/secret"
)

// Create makes a new master key, which the caller wipes, and writes it, encrypted, to the file: sealed to the TPM2 and the host key where there is a TPM2
// that systemd can use, else to the host key alone; sealedTo says which. It proves that the credential opens before it is in place. An existing file is
// never replaced: the error wraps keyfile.ErrExists.
func (f *File) Create(ctx context.Context) (master *secret.Key, sealedTo []string, err error) {
	if err := f.Check(); err != nil {
		return nil, nil, err
	}
	master, err = secret.Random(kek.KeySize)
	if err != nil {
		return nil, nil, err
	}
	if sealedTo, err = f.seal(ctx, master); err != nil {
		master.Wipe()
		return nil, nil, err
	}
	return master, sealedTo, nil
}

func (f *File) seal(ctx context.Context, master *secret.Key) (sealedTo []string, err error) {
	with := "host"
	if f.hasTPM(ctx) {
		with = "host+tpm2"
	}
	out, err := f.run(ctx, master.Bytes(), maxSealed, "encrypt", "--with-key="+with)
	if err != nil {
		return nil, err
	}
	defer out.Wipe()
	if sealedTo, err = keysOf(out.Bytes()); err != nil {
		return nil, f.At.Bad("path", "what systemd-creds made %w", err)
	}
	opened, err := f.decrypt(ctx, out.Bytes())
	if err != nil {
		return nil, fmt.Errorf("prove the new credential: %w", err)
	}
	defer opened.Wipe()
	if !opened.Equal(master) {
		return nil, f.At.Bad("path", "what systemd-creds made decrypts to another key")
	}
	// As systemd has its own directory for them, for whom it is usually the first thing in there.
	err = os.MkdirAll(filepath.Dir(f.Path), 0o700)
	if err == nil {
		err = atomicfile.Create(f.Path, out.Bytes(), 0o600)
	}
	if errors.Is(err, fs.ErrExist) {
		err = fmt.Errorf("%s: %w", f.Path, keyfile.ErrExists)
	}
	if err != nil {
		return nil, f.At.Bad("path", "%w", err)
	}
	return sealedTo, nil
}

// hasTPM says whether systemd can use a TPM2: firmware, driver and libraries.
func (f *File) hasTPM(ctx context.Context) bool {
	if f.TPM2Device != "" {
		return true
	}
	out, err := subprocess.Cmd{Argv: []string{program, "has-tpm2", "--quiet"}, Env: environment(), MaxOut: 1 << 10}.Run(ctx)
	out.Wipe()
	return err == nil
}
