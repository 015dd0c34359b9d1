// SPDX-License-Identifier: Apache-2.0

// Package keyfile reads and makes the files of 32 random bytes that are keys, for the key providers that have them.
package keyfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"github.com/voluks/voluks/internal/atomicfile"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/secret"
)

// What can be wrong with a key file. Each has its own way out, which the command line tells.
var (
	ErrMissing    = errors.New("does not exist")
	ErrExists     = errors.New("exists already and is never overwritten")
	ErrSymlink    = errors.New("is a symbolic link")
	ErrNotRegular = errors.New("is not a regular file")
	ErrOwner      = errors.New("belongs to another user")
	ErrOpen       = errors.New("is open to its group or to others")
	ErrShort      = errors.New("is too short")
	ErrLong       = errors.New("is too long")
	ErrNewline    = errors.New("ends in a newline that is not part of the key")
	ErrHex        = errors.New("holds hexadecimal text instead of raw bytes")
	ErrBase64     = errors.New("holds base64 text instead of raw bytes")
	ErrNotRandom  = errors.New("does not hold random bytes")
)

// Error is a key file that cannot be used. Err is, or wraps, one of the errors above, or the
// error of a system call.
type Error struct {
	Path   string // of the key
	Err    error  // what is wrong with it
	Detail string // numbers, never contents
}

// Error implements error.
func (e *Error) Error() string {
	s := fmt.Sprintf("key file %s %v", e.Path, e.Err)
	if e.Detail != "" {
		s += " (" + e.Detail + ")"
	}
	return s
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// looked at is enough of a file to tell a key from the texts that people put there instead.
const looked = 128

// Read returns the key in a key file, which the caller wipes. Errors are *Error.
func Read(path string) (*secret.Key, error) {
	fail := func(err error, format string, args ...any) (*secret.Key, error) {
		return nil, &Error{Path: path, Err: err, Detail: fmt.Sprintf(format, args...)}
	}
	// Without O_NONBLOCK the opening of a pipe would wait for a writer.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(fmt.Errorf("%w: %w", ErrMissing, fs.ErrNotExist), "")
	case errors.Is(err, syscall.ELOOP):
		return fail(ErrSymlink, "")
	case err != nil:
		return fail(fmt.Errorf("cannot be opened: %w", errnoOf(err)), "")
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fail(fmt.Errorf("cannot be examined: %w", errnoOf(err)), "")
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return fail(ErrNotRegular, "")
	case !ok || int(stat.Uid) != os.Geteuid():
		return fail(ErrOwner, "owner %d, expected %d", stat.Uid, os.Geteuid())
	case info.Mode().Perm()&0o077 != 0:
		return fail(ErrOpen, "mode %04o, expected 0600 or 0400", info.Mode().Perm())
	}

	buf, err := secret.New(looked)
	if err != nil {
		return nil, err
	}
	defer buf.Wipe()
	n, err := io.ReadFull(f, buf.Bytes())
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fail(fmt.Errorf("cannot be read: %w", errnoOf(err)), "")
	}
	text := buf.Bytes()[:n]
	if wrong := judge(text); wrong != nil {
		return fail(wrong, "%s bytes, expected %d", count(info.Size(), n), kek.KeySize)
	}
	key, err := secret.New(kek.KeySize)
	if err != nil {
		return nil, err
	}
	copy(key.Bytes(), text)
	return key, nil
}

// count is the size of the file, unless it changed while it was read.
func count(size int64, n int) string {
	if n == looked && size > looked {
		return fmt.Sprint(size)
	}
	return fmt.Sprint(n)
}

// judge says what is wrong with the contents of a key file, without a copy of them.
func judge(b []byte) error {
	line := bytes.TrimSuffix(b, []byte("\n"))
	if len(line) != kek.KeySize {
		line = bytes.TrimSuffix(line, []byte("\r"))
	}
	text := onlyOf(line, hexDigits)
	switch {
	case len(b) != len(line) && len(line) == kek.KeySize && !text:
		return ErrNewline
	case text && (len(line) == 2*kek.KeySize || len(line) == kek.KeySize):
		return ErrHex // 32 hexadecimal digits are 16 bytes, whatever the length of the file
	case len(line) >= 43 && len(line) <= 44 && onlyOf(line, base64Digits):
		return ErrBase64
	case len(b) < kek.KeySize:
		return ErrShort
	case len(b) > kek.KeySize:
		return ErrLong
	case onlyOf(b, printable) || distinct(b) < 8:
		return ErrNotRandom // of 32 random bytes about one in 10^13 looks like text
	}
	return nil
}

const (
	hexDigits    = "0123456789abcdefABCDEF"
	base64Digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_="
	printable    = base64Digits + " !\"#$%&'()*,.:;<>?@[\\]^`{|}~\t\r\n"
)

func onlyOf(b []byte, set string) bool {
	for _, c := range b {
		if bytes.IndexByte([]byte(set), c) < 0 {
			return false
		}
	}
	return len(b) > 0
}

func distinct(b []byte) int {
	var seen [256]bool
	n := 0
	for _, c := range b {
		if !seen[c] {
			seen[c] = true
			n++
		}
	}
	clear(seen[:])
	return n
}

// Generate makes a new key at path, readable by its owner alone, and returns it, which the caller wipes, once it is durable. An existing file of
// whatever kind is left alone: the error wraps ErrExists. A crash leaves either no file at path or the whole key. Errors are *Error.
func Generate(path string) (*secret.Key, error) {
	key, err := secret.Random(kek.KeySize)
	if err != nil {
		return nil, err
	}
	err = atomicfile.Create(path, key.Bytes(), 0o600)
	switch {
	case err == nil:
		return key, nil
	case errors.Is(err, fs.ErrExist):
		err = fmt.Errorf("%w: %w", ErrExists, fs.ErrExist)
	default:
		err = fmt.Errorf("cannot be made: %w", err)
	}
	key.Wipe()
	return nil, &Error{Path: path, Err: err}
}

// errnoOf drops the path, which the message has already.
func errnoOf(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}
