// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"encoding/binary"
	"reflect"
	"strings"
	"testing"
)

// target encodes a struct dm_target_spec with its parameters, padded to 8 bytes, as the kernel does.
func target(at int, start, length uint64, kind, params string) []byte {
	b := make([]byte, 40)
	binary.NativeEndian.PutUint64(b, start)
	binary.NativeEndian.PutUint64(b[8:], length)
	copy(b[24:], kind)
	b = append(b, params...)
	b = append(b, 0)
	for (at+len(b))%8 != 0 {
		b = append(b, 0)
	}
	binary.NativeEndian.PutUint32(b[20:], uint32(at+len(b)))
	return b
}

func TestParseTargets(t *testing.T) {
	b := target(0, 0, 8, "linear", "7:0 32768")
	b = append(b, target(len(b), 8, 16, "crypt", "aes-xts-plain64 :64:logon:cryptsetup:uuid-d0 0 7:0 32768 1 sector_size:4096")...)
	b = append(b, target(len(b), 24, 8, "error", "")...)
	got, err := parseDMTargets(b, 3)
	want := []DMTarget{
		{0, 8, "linear", "7:0 32768"},
		{8, 16, "crypt", "aes-xts-plain64 :64:logon:cryptsetup:uuid-d0 0 7:0 32768 1 sector_size:4096"},
		{24, 8, "error", ""},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := parseDMTargets(nil, 0); err != nil || got != nil {
		t.Errorf("no table: %v, %v", got, err)
	}
	if got, err := parseDMTargets(b, 4); err == nil {
		t.Errorf("more targets than there are: %v", got)
	}
	for n := range b {
		if _, err := parseDMTargets(b[:n], 3); err == nil && n < len(b)-8 {
			t.Errorf("cut to %d of %d bytes: no error", n, len(b))
		}
	}
}

// F41: mappings of others (plain, LUKS1, cryptsetup --disable-keyring) show their key to root; voluks does not carry it on.
func TestLiteralKeysAreDropped(t *testing.T) {
	key := strings.Repeat("0badc0de", 16)
	for _, c := range []struct{ kind, params, want string }{
		{"crypt", "aes-xts-plain64 " + key + " 0 7:0 4096 1 allow_discards", "aes-xts-plain64 - 0 7:0 4096 1 allow_discards"},
		{"crypt", "aes-xts-plain64 " + key, "aes-xts-plain64 -"},
		{"crypt", "cipher_null-ecb - 0 7:0 4096", "cipher_null-ecb - 0 7:0 4096"},
		{"crypt", "aes-xts-plain64 :64:logon:x 0 7:0 0", "aes-xts-plain64 :64:logon:x 0 7:0 0"},
		{"crypt", "", ""},
		{"integrity", "7:0 0 32 J 2 internal_hash:hmac(sha256):" + key + " journal_mac:hmac(sha256):" + key, "7:0 0 32 J 2 internal_hash:hmac(sha256):- journal_mac:hmac(sha256):-"},
		{"linear", "7:0 4096", "7:0 4096"},
	} {
		got, err := parseDMTargets(target(0, 0, 8, c.kind, c.params), 1)
		if err != nil || got[0].Params != c.want {
			t.Errorf("%s %q: %+v, %v", c.kind, c.params, got, err)
		}
	}
}

func TestParseNames(t *testing.T) {
	entry := func(dev uint64, name string, next uint32) []byte {
		b := make([]byte, 12)
		binary.NativeEndian.PutUint64(b, dev)
		binary.NativeEndian.PutUint32(b[8:], next)
		b = append(append(b, name...), 0)
		return append(b, make([]byte, 32-len(b))...)
	}
	b := bytes.Join([][]byte{entry(hugeDev(253, 0), "a", 32), entry(hugeDev(253, 300), "b", 0)}, nil)
	got, err := parseDMNames(b)
	if err != nil || len(got) != 2 || hugeMinor(got[1]) != 300 {
		t.Errorf("%v, %v", got, err)
	}
	for _, empty := range [][]byte{nil, entry(0, "", 0)} {
		if got, err := parseDMNames(empty); err != nil || got != nil {
			t.Errorf("empty: %v, %v", got, err)
		}
	}
	for _, bad := range [][]byte{b[:40], entry(1, "a", 4), entry(1, "a", 1<<31), b[:5]} {
		if got, err := parseDMNames(bad); err == nil {
			t.Errorf("%v: %v", bad, got)
		}
	}
}

func FuzzDMParse(f *testing.F) {
	f.Add(target(0, 0, 8, "crypt", "aes 00ff 0 7:0 0"), uint32(1))
	f.Fuzz(func(t *testing.T, b []byte, n uint32) {
		got, err := parseDMTargets(b, n)
		if err == nil && len(got) != int(n) {
			t.Errorf("%d of %d targets", len(got), n)
		}
		_, _ = parseDMNames(b)
	})
}

func TestHugeDev(t *testing.T) {
	for _, c := range [][2]uint32{{0, 0}, {253, 7}, {7, 300}, {4095, 1048575}, {259, 65536}} {
		if d := hugeDev(c[0], c[1]); hugeMajor(d) != c[0] || hugeMinor(d) != c[1] {
			t.Errorf("%v: %#x, %d:%d", c, d, hugeMajor(d), hugeMinor(d))
		}
	}
}
