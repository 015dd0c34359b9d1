// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks/header"
)

// Wrong key, no slot, occupied slot: each is one condition with its errno, and leaves the header as it was.
func TestTypedErrors(t *testing.T) {
	key, wrong := randomKey(t), randomKey(t)
	c := formatted(t, key)
	before := content(t, c.Path())
	auth := Auth{agent, key}
	tests := []struct {
		name  string
		do    func() error
		kind  error
		errno syscall.Errno
	}{
		{"wrong key", func() error { return c.TestSlot(agent, wrong) }, ErrWrongKey, syscall.EPERM},
		{"no slot", func() error { return c.TestSlot(3, key) }, ErrNoSlot, syscall.ENOENT},
		{"any slot", func() error { return c.TestSlot(-1, key) }, ErrNoSlot, syscall.ENOENT},
		{"wrong key for a new slot", func() error { return c.AddSlot(Auth{agent, wrong}, 3, key, KDFRandomKey) }, ErrWrongKey, syscall.EPERM},
		{"no slot for a new slot", func() error { return c.AddSlot(Auth{4, key}, 3, key, KDFRandomKey) }, ErrNoSlot, syscall.ENOENT},
		{"any slot for a new slot", func() error { return c.AddSlot(Auth{-1, key}, 3, key, KDFRandomKey) }, ErrNoSlot, syscall.ENOENT},
		{"occupied", func() error { return c.AddSlot(auth, agent, wrong, KDFRandomKey) }, ErrSlotOccupied, syscall.EEXIST},
		{"kill no slot", func() error { return c.KillSlot(3) }, ErrNoSlot, syscall.ENOENT},
		{"kill any slot", func() error { return c.KillSlot(-1) }, ErrNoSlot, syscall.ENOENT},
		{"kill last slot", func() error { return c.KillSlot(agent) }, ErrLastSlot, syscall.EPERM},
		{"no token", func() error { return c.RemoveToken(0) }, ErrNoToken, syscall.ENOENT},
		{"any token", func() error { return c.RemoveToken(-1) }, ErrNoToken, syscall.ENOENT},
		{"huge token", func() error {
			return setToken(c, -1, `{"type":"x","keyslots":[],"x":"`+strings.Repeat("x", 62000)+`"}`)
		}, ErrNoSpace, syscall.ENOSPC},
		{"token of no slot", func() error { return setToken(c, -1, `{"type":"x","keyslots":["7"]}`) }, nil, syscall.EINVAL},
		{"token of no JSON", func() error { return setToken(c, -1, `{"type":"x"`) }, nil, syscall.EINVAL},
		{"reserved token", func() error { return setToken(c, -1, `{"type":"luks2-x","keyslots":[]}`) }, nil, syscall.EINVAL},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := test.do()
			var e *Error
			if !errors.As(err, &e) || e.Errno != test.errno || !errors.Is(err, test.errno) {
				t.Fatalf("got %v, want errno %v", err, test.errno)
			}
			for _, kind := range []error{ErrWrongKey, ErrNoSlot, ErrSlotOccupied, ErrLastSlot, ErrNoToken, ErrNoSpace, ErrBusy, ErrActive, ErrNotActive} {
				if errors.Is(err, kind) != (kind == test.kind) {
					t.Errorf("%v: is %v: %t", err, kind, errors.Is(err, kind))
				}
			}
			if !strings.Contains(err.Error(), c.Path()) || strings.Contains(err.Error(), "\n") {
				t.Errorf("text: %q", err)
			}
		})
	}
	for name, do := range map[string]func() error{
		"slot 32":  func() error { return c.AddSlot(auth, 32, key, KDFRandomKey) },
		"slot -1":  func() error { return c.AddSlot(auth, -1, key, KDFRandomKey) },
		"token 32": func() error { return setToken(c, 32, `{"type":"x","keyslots":[]}`) },
	} {
		if err := do(); !errors.Is(err, syscall.ERANGE) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if before != content(t, c.Path()) {
		t.Error("an operation that failed wrote something")
	}
}

func setToken(c *Container, id int, json string) error {
	_, err := c.SetToken(id, []byte(json))
	return err
}

// F34: no slot ever gets an empty key, and no fast derivation a short one.
func TestEmptyAndShortKeys(t *testing.T) {
	key, short := randomKey(t), keyOf(t, "0123456789abcdef0123456789abcde")
	wiped := randomKey(t)
	wiped.Wipe()
	c := formatted(t, key)
	auth := Auth{agent, key}
	for name, k := range map[string]*secret.Key{"nil": nil, "wiped": wiped, "zero value": new(secret.Key)} {
		for op, err := range map[string]error{
			"format":     At(image(t)).Format(params(k)),
			"add":        c.AddSlot(auth, 1, k, KDFRandomKey),
			"passphrase": c.AddSlot(auth, 1, k, KDFPassphrase),
			"auth":       c.AddSlot(Auth{agent, k}, 1, key, KDFRandomKey),
			"test":       c.TestSlot(agent, k),
			"witness":    c.Witness(agent, k),
		} {
			if !errors.Is(err, ErrKeyLength) {
				t.Errorf("%s key, %s: %v", name, op, err)
			}
		}
	}
	wantError(t, c.AddSlot(auth, 1, short, KDFRandomKey), ErrKeyLength)
	wantError(t, At(image(t)).Format(params(short)), ErrKeyLength)
	if err := c.AddSlot(auth, 1, key, KDF{Type: "pbkdf2", Hash: "sha1", Iterations: 1}); err == nil {
		t.Error("an unknown derivation is taken")
	}
	if n := len(mustHeader(t, c).Keyslots); n != 1 {
		t.Errorf("%d slots", n)
	}
}

func TestFormatRefuses(t *testing.T) {
	key := randomKey(t)
	tests := map[string]struct {
		change func(*FormatParams)
		size   int64
	}{
		"no UUID":             {func(p *FormatParams) { p.UUID = "" }, 32 << 20},
		"UUID in capitals":    {func(p *FormatParams) { p.UUID = strings.ToUpper(testUUID) }, 32 << 20},
		"long label":          {func(p *FormatParams) { p.Label = strings.Repeat("x", 48) }, 32 << 20},
		"long subsystem":      {func(p *FormatParams) { p.Subsystem = strings.Repeat("x", 48) }, 32 << 20},
		"sector size 0":       {func(p *FormatParams) { p.SectorSize = 0 }, 32 << 20},
		"sector size 2048":    {func(p *FormatParams) { p.SectorSize = 2048 }, 32 << 20},
		"slot -1":             {func(p *FormatParams) { p.Slot = -1 }, 32 << 20},
		"slot 32":             {func(p *FormatParams) { p.Slot = 32 }, 32 << 20},
		"empty":               {func(*FormatParams) {}, 0},
		"room for the header": {func(*FormatParams) {}, 16 << 20},
		"half a sector":       {func(*FormatParams) {}, 16<<20 + 4096 + 512},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "image")
			must(t, os.WriteFile(path, nil, 0o600))
			must(t, os.Truncate(path, test.size))
			p := params(key)
			test.change(&p)
			err := At(path).Format(p)
			if err == nil {
				t.Fatal("formatted")
			}
			b, err2 := os.ReadFile(path)
			must(t, err2)
			if int64(len(b)) != test.size || strings.Trim(string(b), "\x00") != "" {
				t.Errorf("%v, but the file was changed", err)
			}
		})
	}
	if err := At(filepath.Join(t.TempDir(), "missing")).Format(params(key)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if err := At(t.TempDir()).Format(params(key)); err == nil {
		t.Error("formatted a directory")
	}
}

// A file whose lock a loop device (or anybody) holds is busy; libcryptsetup alone would wait for ever.
func TestLockedFile(t *testing.T) {
	key := randomKey(t)
	c := formatted(t, key)
	f, err := os.OpenFile(c.Path(), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, sys.TryLock(f))
	err = c.TestSlot(agent, key)
	wantError(t, err, ErrBusy)
	wantError(t, err, syscall.EBUSY)
	if _, err := c.Header(); err != nil {
		t.Errorf("looking at it must work: %v", err)
	}
}

// This machine's kernel may have no device-mapper; then that is what Open and Close say, before anything else happens.
func TestNoDeviceMapper(t *testing.T) {
	if _, err := sys.DMList(); !errors.Is(err, sys.ErrNoDeviceMapper) {
		t.Skipf("device-mapper is here (or cannot be asked: %v); the guest's tests cover Open", err)
	}
	key := randomKey(t)
	c := formatted(t, key)
	wantError(t, c.Open(OpenParams{Name: MappingName(testUUID), Slot: agent, Key: key, Expect: header.Expect{UUID: testUUID}}), ErrNoDeviceMapper)
	wantError(t, Close(MappingName(testUUID)), ErrNoDeviceMapper)
}

func TestNotLUKS(t *testing.T) {
	key := randomKey(t)
	c := At(image(t))
	luks1 := image(t)
	mustCLI(t, key, "luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000", "--key-file", "-", luks1)
	for c, want := range map[*Container]error{c: header.ErrNotLUKS, At(luks1): header.ErrLUKS1} {
		before := content(t, c.Path())
		for op, err := range map[string]error{
			"test": c.TestSlot(0, key), "add": c.AddSlot(Auth{0, key}, 1, key, KDFRandomKey), "kill": c.KillSlot(0), "token": setToken(c, -1, "{}"),
			"remove": c.RemoveToken(0), "flags": c.SetFlags(Flags{}), "witness": c.Witness(0, key),
		} {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", op, err, want)
			}
		}
		if before != content(t, c.Path()) {
			t.Error("something was written")
		}
	}
}

func TestErrorText(t *testing.T) {
	e := &Error{Op: "format", Object: "/dev/x", Errno: syscall.EINVAL, Detail: "line one\nline two"}
	if got := e.Error(); got != "format of /dev/x: invalid argument (libcryptsetup: line one line two)" {
		t.Error(got)
	}
	if got := fmt.Sprint(&Error{Op: "open", Object: "/dev/x", Errno: syscall.EPERM, kind: ErrWrongKey}); got != "open of /dev/x: the key does not open this slot" {
		t.Error(got)
	}
}
