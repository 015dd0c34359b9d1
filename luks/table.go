// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks/header"
)

// Table is what the kernel must say of an open container. A zero field stands for what voluks writes; Name, Length, Device and SectorSize have a zero that takes
// any (512 and 4096 as sector sizes). The options are compared exactly.
type Table struct {
	UUID       string  // of the container; required
	Name       string  // of the mapping
	Cipher     string  // such as "aes-xts-plain64"
	KeyBytes   int     // length of the volume key
	SectorSize int     // bytes
	DataOffset int64   // bytes
	Length     int64   // bytes of the mapping
	Device     sys.Dev // the device below; its name is not compared
	Options    Flags   // of the crypt target
}

// TableError is a mapping that is not what it should be. Nothing may be read from or written to it.
type TableError struct {
	Mapping          string // its name
	Field, Got, Want string // what was found there, and what was asked for
}

// Error says what the kernel has and what was asked for.
func (e *TableError) Error() string {
	return fmt.Sprintf("mapping %s is not what was asked for: its %s is %q, want %q", e.Mapping, e.Field, e.Got, e.Want)
}

// MappingName is the name of the mapping of a container.
func MappingName(uuid string) string { return "voluks-" + uuid }

// CheckTable returns nil if the mapping is one encrypted target as asked for, whose key went to the kernel through its keyring, else a *TableError. It only looks
// at its arguments.
func CheckTable(d *sys.DMDevice, t Table) error {
	c := comparison{mapping: d.Name}
	if t.Name != "" {
		c.same("name", d.Name, t.Name)
	}
	// As libcryptsetup composes it. The kernel never changes it.
	c.same("device-mapper UUID", d.UUID, "CRYPT-LUKS2-"+strings.ReplaceAll(t.UUID, "-", "")+"-"+d.Name)
	c.same("mode", mode(d.ReadOnly), mode(false))
	c.same("number of targets", len(d.Targets), 1)
	if c.err != nil || t.UUID == "" {
		return c.result()
	}
	target := d.Targets[0]
	c.same("type", target.Type, "crypt")
	c.same("start", target.Start, 0)
	if t.Length != 0 {
		c.same("length", target.Length, uint64(t.Length/512))
	}
	c.params(target.Params, t)
	return c.result()
}

// params compares the parameters of a dm-crypt target: CIPHER KEY IV_OFFSET DEVICE OFFSET [COUNT OPTION...]; see the kernel's dm-crypt documentation.
func (c *comparison) params(params string, t Table) {
	f := strings.Fields(params)
	if len(f) < 5 {
		c.same("table", params, "the parameters of dm-crypt")
		return
	}
	c.same("cipher", f[0], cmp.Or(t.Cipher, header.DefaultCipher))
	c.same("key", f[1], fmt.Sprintf(":%d:logon:cryptsetup:%s-d0", cmp.Or(t.KeyBytes, header.DefaultKeyBytes), t.UUID))
	c.same("IV offset", f[2], "0")
	if t.Device.Major != 0 {
		c.same("device", f[3], t.Device.String())
	}
	c.same("offset", f[4], fmt.Sprint(cmp.Or(t.DataOffset, header.DefaultDataOffset)/512))
	options := f[min(6, len(f)):]
	if len(f) > 5 {
		c.same("number of options", f[5], fmt.Sprint(len(options)))
	}
	c.options(options, t)
}

func (c *comparison) options(got []string, t Table) {
	want := []string{}
	for name, on := range map[string]bool{
		"allow_discards":     t.Options.Discards,
		"no_read_workqueue":  t.Options.NoReadWorkqueue,
		"no_write_workqueue": t.Options.NoWriteWorkqueue,
	} {
		if on {
			want = append(want, name)
		}
	}
	const large = "sector_size:4096"
	if t.SectorSize > 512 || t.SectorSize == 0 && slices.Contains(got, large) {
		want = append(want, fmt.Sprintf("sector_size:%d", cmp.Or(t.SectorSize, 4096)))
	}
	slices.Sort(want)
	got = slices.Sorted(slices.Values(got))
	c.same("options", strings.Join(got, " "), strings.Join(want, " "))
}

func mode(readOnly bool) string {
	if readOnly {
		return "read-only"
	}
	return "read-write"
}

// A comparison keeps the first difference.
type comparison struct {
	mapping string
	err     *TableError
}

func (c *comparison) same(field string, got, want any) {
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w && c.err == nil {
		c.err = &TableError{Mapping: c.mapping, Field: field, Got: g, Want: w}
	}
}

func (c *comparison) result() error {
	if c.err == nil {
		return nil
	}
	return c.err
}
