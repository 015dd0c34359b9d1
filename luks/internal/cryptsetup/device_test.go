// SPDX-License-Identifier: Apache-2.0

package cryptsetup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	upstream "github.com/martinjungblut/go-cryptsetup"
)

func blank(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "blank")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// go-cryptsetup's handle is where handle looks for it, and it is the real one: what one side sets the other side sees.
func TestHandle(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, 20<<20); err != nil {
		t.Fatal(err)
	}
	err := Init(path, func(d *Device) error {
		if d.cd == nil || handle(d.up) != d.cd {
			t.Error("no handle")
		}
		err := d.Format(FormatParams{
			UUID: "0f6bd0a6-1a5c-4a49-9d15-6f8a3c5b2e11", Cipher: "aes-xts-plain64", KeyBytes: 64, SectorSize: 512, MetadataSize: 128 << 10, DataOffset: 16 << 20,
			Digest: PBKDF{Type: "pbkdf2", Hash: "sha256", Iterations: 1000},
		})
		if err != nil {
			return err
		}
		if got := d.up.GetUUID(); got != "0f6bd0a6-1a5c-4a49-9d15-6f8a3c5b2e11" {
			t.Errorf("UUID %q", got)
		}
		return d.AddSlot(0, nil, []byte("not a secret"), PBKDF{Type: "pbkdf2", Hash: "sha256", Iterations: 1000})
	})
	if err != nil {
		t.Fatal(err)
	}
	// The second copy lies where the size that our side set puts it.
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(b[128<<10:128<<10+4]) != "SKUL" {
		t.Error("the metadata size did not reach the handle")
	}
}

func TestHandleOfAnother(t *testing.T) {
	if handle(&upstream.Device{}) != nil {
		t.Error("a handle from nowhere")
	}
	err := use(&upstream.Device{}, func(*Device) error { t.Error("called"); return nil })
	if err == nil || !strings.Contains(err.Error(), "pinned version") {
		t.Errorf("error: %v", err)
	}
}

// Errors carry the errno and the library's own words, those of the call and of no earlier one, and nothing is written to standard error.
func TestErrors(t *testing.T) {
	err := Load(blank(t), func(*Device) error { t.Error("loaded"); return nil })
	var e *Error
	if !errors.As(err, &e) || !errors.Is(err, syscall.EINVAL) || e.Call != "crypt_load" {
		t.Fatalf("blank device: %v", err)
	}
	err = Init(filepath.Join(t.TempDir(), "missing"), func(*Device) error { return nil })
	if !errors.As(err, &e) || e.Call != "crypt_init" || !strings.Contains(e.Detail, "missing") {
		t.Errorf("missing device: %v", err)
	}
	err = Init("/dev/null", func(*Device) error { return nil })
	if !errors.As(err, &e) || strings.Contains(e.Detail, "missing") {
		t.Errorf("no block device: %v", err)
	}
	if err := Init(blank(t), func(*Device) error { return os.ErrClosed }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the error of the function: %v", err)
	}
}

// CRYPT_ANY_SLOT and empty keys do not reach the library.
func TestGuards(t *testing.T) {
	err := Init(blank(t), func(d *Device) error {
		for name, err := range map[string]error{
			"test": d.Test(-1, []byte("k")), "add": d.AddSlot(-1, nil, []byte("k"), PBKDF{Type: "pbkdf2"}), "get": d.VolumeKey(-1, []byte("k"), nil),
			"destroy": d.DestroySlot(-1), "activate": d.Activate("x", -1, []byte("k"), Flags{}), "test 32": d.Test(32, []byte("k")), "token": d.RemoveToken(-1),
		} {
			if !errors.Is(err, syscall.ERANGE) {
				t.Errorf("%s: %v", name, err)
			}
		}
		for name, err := range map[string]error{
			"test": d.Test(0, nil), "add": d.AddSlot(0, nil, []byte{}, PBKDF{Type: "pbkdf2"}), "get": d.VolumeKey(0, nil, nil), "activate": d.Activate("x", 0, nil, Flags{}),
		} {
			if err == nil || !strings.Contains(err.Error(), "empty key") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := d.Activate("", 0, []byte("k"), Flags{}); err == nil {
			t.Error("activated without a name")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
