// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"fmt"
	"runtime"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks/internal/cryptsetup"
)

// Resize makes an open mapping as large as its device is by now, while it is used. p is what it was opened with. The header is checked strictly before the
// key is used; the kernel's table is compared with what it must be, before (but for its length) and after. A mapping that is as large already is left alone.
// It never gets smaller: a device that did is an error.
//
// sys.ErrNotExist: there is no such mapping. Else the errors are those of Open; after each of them the mapping is as it was, unless it is a *TableError.
func (c *Container) Resize(p OpenParams) error {
	op := "resize"
	table, err := c.plan(op, p)
	if err != nil {
		return err
	}
	now, err := sys.DMByName(p.Name)
	if err != nil {
		return err
	}
	want := table
	want.Length = 0
	if err := CheckTable(now, want); err != nil {
		return err
	}
	switch have := int64(now.Targets[0].Length) * 512; {
	case have == table.Length:
		return nil
	case have > table.Length:
		return &TableError{Mapping: p.Name, Field: "length", Got: inBytes(have), Want: "at most " + inBytes(table.Length) + ", which its device has room for"}
	}
	return c.load(op, activation, func(d *cryptsetup.Device) error {
		defer runtime.KeepAlive(p.Key)
		if err := d.Resize(p.Name, p.Slot, p.Key.Bytes()); err != nil {
			return err
		}
		return verify(p.Name, table)
	})
}

func inBytes(n int64) string { return fmt.Sprintf("%d bytes", n) }
