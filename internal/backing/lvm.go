// SPDX-License-Identifier: Apache-2.0

package backing

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/voluks/voluks/internal/lateregexp"
	"github.com/voluks/voluks/internal/sys/tool"
)

// lvmName is what LVM takes as the name of a group, pool or volume; with its own rule that no name begins with a dash, none is taken for an option.
var lvmName = lateregexp.New(`^[a-zA-Z0-9_+.][a-zA-Z0-9_+.-]{0,126}$`)

// CheckLVMName refuses what cannot be the name of a volume group or thin pool.
func CheckLVMName(name string) error {
	if !lvmName().MatchString(name) || name == "." || name == ".." {
		return fmt.Errorf("%q is no name of LVM: letters, digits and _ + . - are, and no dash in front", name)
	}
	return nil
}

// lvm runs one of LVM's commands.
func lvm(ctx context.Context, command string, args ...string) ([]byte, error) {
	path, err := tool.Find(command, "lvm2")
	if err != nil {
		return nil, err
	}
	c := tool.Command{Path: path, Args: args}
	if _, err := os.Stat("/run/udev/control"); err != nil {
		c.Env = []string{"DM_DISABLE_UDEV=1"} // without udev, LVM would wait for it
	}
	return tool.Run(ctx, c)
}

// findLV returns the size of a logical volume in bytes. os.ErrNotExist only if LVM can read the volume group, and it has none of that name.
func findLV(ctx context.Context, vg, name string) (int64, error) {
	if err := CheckLVMName(vg); err != nil {
		return 0, err
	}
	out, err := lvm(ctx, "lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "--options", "lv_name,lv_size", "--select", "lv_name="+name, vg)
	if err != nil {
		return 0, err
	}
	var all struct {
		Report []struct {
			LV []struct {
				Name string `json:"lv_name"`
				Size string `json:"lv_size"`
			} `json:"lv"`
		} `json:"report"`
	}
	bad := func(err error) (int64, error) { return 0, fmt.Errorf("what lvs says of volume group %s: %w", vg, err) }
	if err := json.Unmarshal(out, &all); err != nil {
		return bad(err)
	}
	if len(all.Report) != 1 || len(all.Report[0].LV) > 1 {
		return bad(errors.New("not one report of one volume"))
	}
	if len(all.Report[0].LV) == 0 {
		return 0, &os.PathError{Op: "find logical volume", Path: vg + "/" + name, Err: os.ErrNotExist}
	}
	lv := all.Report[0].LV[0]
	size, err := strconv.ParseInt(lv.Size, 10, 64)
	if err != nil || lv.Name != name {
		return bad(fmt.Errorf("volume %q, size %q", lv.Name, lv.Size))
	}
	return size, nil
}
