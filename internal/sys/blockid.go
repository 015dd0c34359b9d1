// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// BlockID is what tells one block device from another, as the kernel knows it. Names and numbers of devices are given out anew at each boot; this
// stays with the medium. A device may have neither serial number nor WWN; what is "" was not there.
type BlockID struct {
	Serial    string `json:"serial,omitempty"`    // of the disk
	WWN       string `json:"wwn,omitempty"`       // of the disk, with its prefix: naa., eui., nvme., uuid.
	DM        string `json:"dm,omitempty"`        // UUID of a device-mapper device
	Partition int    `json:"partition,omitempty"` // its number; 0: a whole disk
	Start     int64  `json:"start,omitempty"`     // where the partition begins, in bytes
	Size      int64  `json:"size"`                // bytes
	Block     int    `json:"block"`               // smallest unit that it can address, in bytes
}

// Names lists what a person can tell the device by, the best first: its serial number, WWN, device-mapper UUID.
func (id BlockID) Names() []string {
	var names []string
	for _, name := range []string{id.Serial, id.WWN, id.DM} {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// String says it in words.
func (id BlockID) String() string {
	var parts []string
	for name, value := range map[string]string{"serial": id.Serial, "WWN": id.WWN, "device-mapper UUID": id.DM} {
		if value != "" {
			parts = append(parts, name+" "+value)
		}
	}
	if len(parts) == 0 {
		parts = []string{"no serial number"}
	}
	if id.Partition > 0 {
		parts = append(parts, fmt.Sprintf("partition %d", id.Partition))
	}
	return strings.Join(append(parts, fmt.Sprintf("%d bytes", id.Size)), ", ")
}

// IdentifyBlock returns what a block device is known by. It reads sysfs alone, so it never waits for the device. One that does not exist gives an
// error that wraps os.ErrNotExist.
func IdentifyBlock(major, minor uint32) (BlockID, error) {
	id, err := identifyBlock("/sys", major, minor)
	if err != nil {
		return BlockID{}, fmt.Errorf("identify block device %d:%d: %w", major, minor, err)
	}
	return id, nil
}

func identifyBlock(root string, major, minor uint32) (id BlockID, err error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(root, "dev/block", fmt.Sprintf("%d:%d", major, minor)))
	if err != nil {
		return id, err
	}
	const sector = 512 // bytes; the unit of sysfs, whatever the device's
	number := func(file string, unit int64) int64 {
		text, err2 := attribute(dir, file)
		n, err3 := strconv.ParseInt(text, 10, 64)
		if err = errors.Join(err, err2); err2 == nil && err3 != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", file, err3))
		}
		return n * unit
	}
	id.Size = number("size", sector)
	disk := dir
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		id.Partition, id.Start = int(number("partition", 1)), number("start", sector)
		disk = filepath.Dir(dir)
	}
	if err != nil {
		return id, err
	}
	dir = disk
	id.Block = int(number("queue/logical_block_size", 1))
	first := func(files ...string) (text string) {
		for _, file := range files {
			s, err2 := attribute(disk, file)
			if text == "" {
				text = s
			}
			if err2 != nil && !errors.Is(err2, os.ErrNotExist) {
				err = errors.Join(err, err2) // a serial number that cannot be read is not one that is not there
			}
		}
		return text
	}
	id.WWN = first("wwid", "device/wwid")
	id.Serial = first("serial", "device/serial", "device/vpd_pg80")
	id.DM = first("dm/uuid")
	return id, err
}

// attribute reads a small file of sysfs, without the blanks around its text.
func attribute(dir, file string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if filepath.Base(file) == "vpd_pg80" { // as SCSI has it: a header of 4 bytes, the last of which is the length
		const header = 4
		b = b[min(header, len(b)):]
	}
	return strings.TrimSpace(string(bytes.Trim(b, "\x00"))), err
}

// Rotational tells whether there is a rotating disk among the devices that a block device lies on, itself included. It reads sysfs alone.
func Rotational(major, minor uint32) (bool, error) {
	below, err := BlockSlaves(major, minor)
	if err != nil {
		return false, err
	}
	for _, d := range below {
		if r, err := Rotational(d.Major, d.Minor); err != nil || r {
			return r, err
		}
	}
	if len(below) > 0 {
		return false, nil
	}
	text, err := attribute("/sys", fmt.Sprintf("dev/block/%d:%d/queue/rotational", major, minor))
	if err != nil {
		return false, fmt.Errorf("kind of block device %d:%d: %w", major, minor, err)
	}
	return text == "1", nil
}
