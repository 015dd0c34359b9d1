// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"errors"
	"testing"

	"github.com/voluks/voluks/internal/sys"
)

const (
	plainUUID = "0f6bd0a61a5c4a499d156f8a3c5b2e11"
	goodTable = "aes-xts-plain64 :64:logon:cryptsetup:" + testUUID + "-d0 0 7:3 32768 1 sector_size:4096"
)

func device(params string) *sys.DMDevice {
	name := MappingName(testUUID)
	return &sys.DMDevice{Name: name, UUID: "CRYPT-LUKS2-" + plainUUID + "-" + name, Major: 252, Targets: []sys.DMTarget{{Length: 32768, Type: "crypt", Params: params}}}
}

func fullTable() Table {
	return Table{UUID: testUUID, Name: MappingName(testUUID), SectorSize: 4096, Length: 16 << 20, Device: sys.Dev{Major: 7, Minor: 3}}
}

func TestCheckTable(t *testing.T) {
	if err := CheckTable(device(goodTable), fullTable()); err != nil {
		t.Error(err)
	}
	if err := CheckTable(device(goodTable), Table{UUID: testUUID}); err != nil {
		t.Errorf("with the least that must be known: %v", err)
	}
	small := "aes-xts-plain64 :64:logon:cryptsetup:" + testUUID + "-d0 0 7:3 32768"
	if err := CheckTable(device(small), Table{UUID: testUUID}); err != nil {
		t.Errorf("sectors of 512 bytes: %v", err)
	}
	all := Table{UUID: testUUID, SectorSize: 4096, Options: Flags{true, true, true}}
	if err := CheckTable(device("aes-xts-plain64 :64:logon:cryptsetup:"+testUUID+"-d0 0 7:3 32768 4 allow_discards no_read_workqueue no_write_workqueue sector_size:4096"), all); err != nil {
		t.Errorf("all options: %v", err)
	}
}

// F48 F28: every way in which a mapping can be another than asked for.
func TestCheckTableDiffers(t *testing.T) {
	with := func(f func(*sys.DMDevice)) *sys.DMDevice { d := device(goodTable); f(d); return d }
	key := ":64:logon:cryptsetup:" + testUUID + "-d0"
	tests := map[string]struct {
		d     *sys.DMDevice
		field string
	}{
		"null cipher":         {device("cipher_null-ecb " + key + " 0 7:3 32768 1 sector_size:4096"), "cipher"},
		"capi":                {device("capi:xts(aes)-plain64 " + key + " 0 7:3 32768 1 sector_size:4096"), "cipher"},
		"literal key":         {device("aes-xts-plain64 - 0 7:3 32768 1 sector_size:4096"), "key"},
		"short key":           {device("aes-xts-plain64 :32:logon:cryptsetup:" + testUUID + "-d0 0 7:3 32768 1 sector_size:4096"), "key"},
		"readable key":        {device("aes-xts-plain64 :64:user:cryptsetup:" + testUUID + "-d0 0 7:3 32768 1 sector_size:4096"), "key"},
		"key of another":      {device("aes-xts-plain64 :64:logon:cryptsetup:1f6bd0a6-1a5c-4a49-9d15-6f8a3c5b2e11-d0 0 7:3 32768 1 sector_size:4096"), "key"},
		"IV offset":           {device("aes-xts-plain64 " + key + " 8 7:3 32768 1 sector_size:4096"), "IV offset"},
		"other device":        {device("aes-xts-plain64 " + key + " 0 7:33 32768 1 sector_size:4096"), "device"},
		"other offset":        {device("aes-xts-plain64 " + key + " 0 7:3 0 1 sector_size:4096"), "offset"},
		"no sector size":      {device("aes-xts-plain64 " + key + " 0 7:3 32768"), "options"},
		"other sector size":   {device("aes-xts-plain64 " + key + " 0 7:3 32768 1 sector_size:1024"), "options"},
		"discards":            {device(goodTable[:len(goodTable)-len("1 sector_size:4096")] + "2 allow_discards sector_size:4096"), "options"},
		"large sectors in IV": {device(goodTable[:len(goodTable)-len("1 sector_size:4096")] + "2 sector_size:4096 iv_large_sectors"), "options"},
		"integrity":           {device(goodTable[:len(goodTable)-len("1 sector_size:4096")] + "2 integrity:16:aead sector_size:4096"), "options"},
		"wrong count":         {device(goodTable[:len(goodTable)-len("1 sector_size:4096")] + "7 sector_size:4096"), "number of options"},
		"empty":               {device(""), "table"},
		"linear":              {with(func(d *sys.DMDevice) { d.Targets[0].Type = "linear" }), "type"},
		"no table":            {with(func(d *sys.DMDevice) { d.Targets = nil }), "number of targets"},
		"two targets":         {with(func(d *sys.DMDevice) { d.Targets = append(d.Targets, d.Targets[0]) }), "number of targets"},
		"start":               {with(func(d *sys.DMDevice) { d.Targets[0].Start = 8 }), "start"},
		"length":              {with(func(d *sys.DMDevice) { d.Targets[0].Length-- }), "length"},
		"read-only":           {with(func(d *sys.DMDevice) { d.ReadOnly = true }), "mode"},
		"plain":               {with(func(d *sys.DMDevice) { d.UUID = "CRYPT-PLAIN-" + d.Name }), "device-mapper UUID"},
		"LUKS1":               {with(func(d *sys.DMDevice) { d.UUID = "CRYPT-LUKS1-" + plainUUID + "-" + d.Name }), "device-mapper UUID"},
		"other container":     {with(func(d *sys.DMDevice) { d.UUID = "CRYPT-LUKS2-1" + plainUUID[1:] + "-" + d.Name }), "device-mapper UUID"},
		"other name":          {with(func(d *sys.DMDevice) { d.Name, d.UUID = "x", "CRYPT-LUKS2-"+plainUUID+"-x" }), "name"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var e *TableError
			if err := CheckTable(test.d, fullTable()); !errors.As(err, &e) || e.Field != test.field {
				t.Errorf("got %v, want a difference in %s", err, test.field)
			}
		})
	}
	if err := CheckTable(device(goodTable), Table{}); err == nil {
		t.Error("a table without a UUID is matched")
	}
}
