// SPDX-License-Identifier: Apache-2.0

// Package keydir is the key provider with one key file of 32 random bytes per volume, named by its UUID, in a directory that somebody has custody
// of: a removable medium, a file system of its own, a share. Who takes a file away takes that volume's key away, and no other one.
//
// The directory has a mark with an ID of its own. Without it an unmounted medium would look like an empty directory of keys, and new volumes would
// get keys that vanish below the next mount.
package keydir

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/voluks/voluks/internal/atomicfile"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/keyfile"
	"github.com/voluks/voluks/internal/kek/local"
	"github.com/voluks/voluks/internal/lateregexp"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
)

const (
	name = "keydir"
	// markName is the file that makes a directory a key directory.
	markName = "voluks-keydir"
)

var (
	markForm = lateregexp.New(`^voluks key directory ([0-9a-f]{16})\n$`)
	uuidForm = lateregexp.New(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

// volatile are the file systems that forget everything at the next boot, by their magic numbers.
var volatile = map[int64]string{0x01021994: "tmpfs", 0x858458f6: "ramfs"}

// Settings say which directory it is.
type Settings struct {
	// At is the dotted name of these settings in the configuration, for errors: "kek.keydir".
	At kek.Table
	// Path is the absolute path of the directory.
	Path string
	// TestOnlyVolatile allows a directory in memory.
	TestOnlyVolatile bool
}

func (s *Settings) bad(format string, args ...any) error {
	return s.At.Bad("path", format, args...)
}

// Provider wraps with the key file of each volume.
type Provider struct {
	settings Settings
	ref      kek.Ref
}

// New reads the mark of the directory. Errors are, or wrap, a *kek.ConfigError; that of a directory without a mark, which an unmounted medium leaves,
// is kek.ErrUnavailable too.
func New(s Settings) (kek.Provider, error) {
	if !filepath.IsAbs(s.Path) {
		return nil, s.bad("%q is not the absolute path of a directory", s.Path)
	}
	ref, err := s.mark()
	if err != nil {
		return nil, err
	}
	return &Provider{settings: s, ref: ref}, nil
}

// Init makes a directory a key directory, durably, and returns its name. One that is a key directory already is left as it is. The directory must
// exist: who makes it decides where it lies.
func Init(s Settings) (kek.Ref, error) {
	if !filepath.IsAbs(s.Path) {
		return kek.Ref{}, s.bad("%q is not the absolute path of a directory", s.Path)
	}
	if err := s.durable(); err != nil {
		return kek.Ref{}, err
	}
	if ref, err := s.mark(); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return ref, err
	}
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return kek.Ref{}, fmt.Errorf("make an id: %w", err)
	}
	text := "voluks key directory " + hex.EncodeToString(id[:]) + "\n"
	if err := atomicfile.Write(filepath.Join(s.Path, markName), []byte(text), 0o600); err != nil {
		return kek.Ref{}, s.bad("%w", err)
	}
	return s.mark()
}

// mark reads the ID of the directory.
func (s *Settings) mark() (kek.Ref, error) {
	info, err := os.Stat(s.Path)
	if err == nil {
		stat, ok := info.Sys().(*syscall.Stat_t)
		switch {
		case !info.IsDir():
			return kek.Ref{}, s.bad("%s is not a directory", s.Path)
		case info.Mode().Perm()&0o022 != 0:
			return kek.Ref{}, s.bad("%s can be written by its group or by others (mode %04o); make it 0700", s.Path, info.Mode().Perm())
		case !ok || stat.Uid != 0 && int(stat.Uid) != os.Geteuid():
			return kek.Ref{}, s.bad("%s belongs to user %d, who could change it", s.Path, stat.Uid)
		}
	}
	content, err := atomicfile.Read(filepath.Join(s.Path, markName), 100)
	if errors.Is(err, fs.ErrNotExist) {
		return kek.Ref{}, fmt.Errorf("%w: %w", kek.ErrUnavailable,
			s.bad(`%s is not a key directory: is its medium mounted? ("voluks init --keydir" makes a new one): %w`, s.Path, err))
	}
	if err != nil {
		return kek.Ref{}, s.bad("%w", err)
	}
	match := markForm().FindSubmatch(content)
	if match == nil {
		return kek.Ref{}, s.bad("%s in %s is damaged", markName, s.Path)
	}
	return kek.Ref{Provider: name, ID: string(match[1])}, nil
}

// durable refuses a directory that forgets.
func (s *Settings) durable() error {
	stat, err := sys.Statfs(s.Path)
	if err != nil {
		return s.bad("%w", err)
	}
	if kind := volatile[stat.Type]; kind != "" && !s.TestOnlyVolatile {
		return s.bad("%s is on %s, which is empty after the next boot: keys made there would be lost with all that they encrypt", s.Path, kind)
	}
	return nil
}

// Ref names the directory.
func (p *Provider) Ref() kek.Ref { return p.ref }

// Generate makes a random W and seals it with the volume's key, which it makes first, durably, if there is none.
func (p *Provider) Generate(ctx context.Context, b kek.Binding) (w *secret.Key, wrap []byte, ref kek.Ref, err error) {
	path, err := p.open(ctx, b)
	if err != nil {
		return nil, nil, kek.Ref{}, err
	}
	if path == "" {
		return nil, nil, kek.Ref{}, fmt.Errorf("%q is not the UUID of a volume", b.VolumeUUID)
	}
	if err := p.settings.durable(); err != nil {
		return nil, nil, kek.Ref{}, err
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		// Another process may have made it by now; both then have the same one.
		made, err := keyfile.Generate(path)
		made.Wipe()
		if err != nil && !errors.Is(err, keyfile.ErrExists) {
			return nil, nil, kek.Ref{}, p.settings.bad("the key of a volume cannot be kept there: %w", err)
		}
	}
	if err := sys.SyncDir(p.settings.Path); err != nil {
		return nil, nil, kek.Ref{}, p.settings.bad("the key of a volume cannot be kept there: %w", err)
	}
	master, err := keyfile.Read(path)
	if err != nil {
		return nil, nil, kek.Ref{}, p.settings.bad("%w", err)
	}
	defer master.Wipe()
	w, wrap, err = local.Generate(name, master, b)
	return w, wrap, p.ref, err
}

// Unwrap opens what Generate has sealed. Where the volume has no key file the error is a *MissingError.
func (p *Provider) Unwrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) (*secret.Key, error) {
	if !ref.SameKey(p.ref) {
		return nil, &kek.NotMineError{Want: ref, Have: p.ref}
	}
	path, err := p.open(ctx, b)
	if err != nil {
		return nil, err
	}
	if path == "" {
		return nil, fmt.Errorf("%w: %q is not the UUID of a volume", kek.ErrWrongKey, b.VolumeUUID)
	}
	master, err := keyfile.Read(path)
	if errors.Is(err, keyfile.ErrMissing) {
		return nil, &MissingError{Path: path}
	}
	if err != nil {
		return nil, p.settings.bad("%w", err)
	}
	defer master.Wipe()
	return local.Unwrap(name, master, b, wrap)
}

// Forget removes the key of a volume. What a medium keeps of a removed file is the medium's business.
func (p *Provider) Forget(ctx context.Context, volumeUUID string) error {
	path, err := p.open(ctx, kek.Binding{VolumeUUID: volumeUUID, Role: "any"})
	if err != nil {
		return err
	}
	if path == "" {
		return fmt.Errorf("%q is not the UUID of a volume", volumeUUID)
	}
	if err := atomicfile.Remove(path); err != nil {
		return p.settings.bad("%w", err)
	}
	return nil
}

// open makes sure that the directory is still the one that it was, and returns the path of the volume's key; "" if the volume can have none.
func (p *Provider) open(ctx context.Context, b kek.Binding) (path string, err error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := b.Validate(); err != nil {
		return "", err
	}
	ref, err := p.settings.mark()
	if err != nil {
		return "", err
	}
	if ref != p.ref {
		return "", fmt.Errorf("%w: %w", kek.ErrUnavailable, p.settings.bad("%s is another key directory by now: %v instead of %v", p.settings.Path, ref, p.ref))
	}
	if !uuidForm().MatchString(b.VolumeUUID) {
		return "", nil
	}
	return filepath.Join(p.settings.Path, b.VolumeUUID+".key"), nil
}

// MissingError means that the directory is there, and the volume's key is not: somebody took it away, or the volume never had one here.
type MissingError struct{ Path string }

// Error implements error.
func (e *MissingError) Error() string { return "the volume's key " + e.Path + " is not there" }

// Is makes it a kek.ErrNotFound, and a kek.ErrWrongKey, since the wrap may as well be another volume's.
func (e *MissingError) Is(target error) bool {
	return target == kek.ErrNotFound || target == kek.ErrWrongKey
}
