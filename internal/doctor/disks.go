// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/voluks/voluks/internal/sys"
)

var diskChecks = []Check{
	{"keys.beside-data", "whoever takes a disk that holds the volumes and, in clear, their key, can read them", besideData},
	{"memory.swap", "the kernel writes to swap what containers have decrypted; hibernation writes the volume keys too", swap},
	{"memory.dump", "a dump of a crashed kernel holds the keys of all open volumes", dump},
}

// place is what lies below a file system.
type place struct {
	disks map[string]bool // kernel names of the devices at the bottom, such as "sda" or "nvme0n1"
	clear bool            // some way down passes no encryption
	ram   bool            // it is memory
}

// placeOf follows the mount of a path down to its disks, through partitions, device-mapper, RAID and loop devices.
func (n *Node) placeOf(path string) (place, error) {
	p := place{disks: map[string]bool{}}
	m, err := n.mountOf(path)
	if err != nil {
		return p, err
	}
	switch m.FSType {
	case "tmpfs", "ramfs":
		p.ram = true
		return p, nil
	}
	device, err := n.deviceOf(m)
	if err != nil {
		return p, err
	}
	return p, n.descend(device, &p, 0)
}

// deviceOf is the directory in sysfs of the device that is mounted. btrfs has a number of its own, and its device in the source.
func (n *Node) deviceOf(m sys.MountInfo) (string, error) {
	if m.Major != 0 {
		return n.resolve(fmt.Sprintf("/sys/dev/block/%d:%d", m.Major, m.Minor))
	}
	if name, ok := strings.CutPrefix(m.Source, "/dev/"); ok {
		return n.blockDevice(name)
	}
	return "", fmt.Errorf("%s is a %s without a disk of this machine", m.Mountpoint, m.FSType)
}

// blockDevice is the directory in sysfs of a device named as below /dev: "sda2", "dm-0", "mapper/NAME".
func (n *Node) blockDevice(name string) (string, error) {
	mapped, ok := strings.CutPrefix(name, "mapper/")
	if !ok {
		return n.resolve("/sys/class/block/" + name)
	}
	all, err := n.list("/sys/class/block")
	if err != nil {
		return "", err
	}
	for _, dm := range all {
		if text, err := n.text("/sys/class/block/" + dm + "/dm/name"); err == nil && text == mapped {
			return n.resolve("/sys/class/block/" + dm)
		}
	}
	return "", fmt.Errorf("/dev/%s: %w", name, fs.ErrNotExist)
}

// resolve follows the symbolic links of sysfs, which are relative.
func (n *Node) resolve(path string) (string, error) {
	real, err := filepath.EvalSymlinks(n.at(path))
	if err != nil {
		return "", err
	}
	return n.outside(real), nil
}

// descend adds what lies below a device. Depth is a bound in case sysfs has a ring in it.
func (n *Node) descend(device string, p *place, depth int) error {
	if depth > 16 {
		return fmt.Errorf("devices below %s are nested too deep", device)
	}
	if uuid, err := n.text(device + "/dm/uuid"); err == nil && strings.HasPrefix(uuid, "CRYPT-") {
		return nil
	}
	if file, err := n.text(device + "/loop/backing_file"); err == nil {
		below, err := n.placeOf(filepath.Join(n.System, file))
		maps.Copy(p.disks, below.disks)
		p.clear = p.clear || below.clear
		return err
	}
	slaves, err := n.list(device + "/slaves")
	if err != nil {
		return err
	}
	for _, slave := range slaves {
		below, err := n.resolve(device + "/slaves/" + slave)
		if err != nil {
			return err
		}
		if err := n.descend(below, p, depth+1); err != nil {
			return err
		}
	}
	if len(slaves) > 0 {
		return nil
	}
	if partition, err := n.has(device + "/partition"); err != nil {
		return err
	} else if partition {
		device = filepath.Dir(device)
	}
	p.disks[filepath.Base(device)] = true
	p.clear = true
	return nil
}

func besideData(n *Node, f *findings) {
	cfg, err := n.config()
	path := ""
	switch {
	case err != nil:
	case cfg.KEK.File != nil:
		path = cfg.KEK.File.Path
	case cfg.KEK.KeyDir != nil:
		path = cfg.KEK.KeyDir.Path
	}
	if path == "" {
		f.ok("the key is no file of this node")
		return
	}
	key, err := n.placeOf(path)
	if f.unknown(err) {
		return
	}
	data, err := n.placeOf(n.Paths.State)
	if f.unknown(err) {
		return
	}
	var common []string
	for disk := range key.disks {
		if data.disks[disk] {
			common = append(common, disk)
		}
	}
	slices.Sort(common)
	switch {
	case key.ram:
		f.ok("the key is in memory")
	case !key.clear:
		f.ok("the key is on an encrypted disk")
	case len(common) > 0:
		f.add(Warning, "encrypt the system's disk, move the key to another medium (kek."+cfg.KEK.Provider+".path), or let another provider guard it",
			"the key %s is in clear on %s, where the volumes are", path, strings.Join(common, " and "))
	default:
		f.ok("the key and the volumes are on different disks")
	}
}

func swap(n *Node, f *findings) {
	text, err := n.text("/proc/swaps")
	if f.unknown(err) {
		return
	}
	hibernates := n.hibernates()
	used := false
	for i, line := range strings.Split(text, "\n") {
		fields := strings.Fields(line)
		if i == 0 || len(fields) < 2 {
			continue
		}
		used = true
		name := fields[0] // blanks are written as \040
		clear, err := n.swapInClear(name, fields[1])
		if f.unknown(wrap("whether swap on "+name+" is encrypted", err)) || !clear {
			continue
		}
		what := "swap on " + name + " is in clear"
		if hibernates {
			what += ", and hibernation is set up"
		}
		f.add(Warning, "switch it off (swapoff -a, and /etc/fstab), use zram, or encrypt it with a random key: see crypttab(5), option swap", "%s", what)
	}
	switch {
	case len(f.list) > 0:
	case used:
		f.ok("swap is encrypted or in memory")
	default:
		f.ok("there is no swap")
	}
}

func (n *Node) swapInClear(name, kind string) (bool, error) {
	if kind == "file" {
		p, err := n.placeOf(filepath.Join(n.System, strings.ReplaceAll(name, `\040`, " ")))
		return p.clear, err
	}
	name = strings.TrimPrefix(name, "/dev/")
	if strings.HasPrefix(name, "zram") {
		backing, err := n.text("/sys/class/block/" + name + "/backing_dev")
		if errors.Is(err, fs.ErrNotExist) || err == nil && backing == "none" {
			return false, nil
		}
		return err == nil, err // it writes back to a device
	}
	device, err := n.blockDevice(name)
	if err != nil {
		return false, err
	}
	p := place{disks: map[string]bool{}}
	err = n.descend(device, &p, 0)
	return p.clear, err
}

// hibernates tells whether the kernel knows where to write its memory to.
func (n *Node) hibernates() bool {
	states, _ := n.text("/sys/power/state")
	resume, _ := n.text("/sys/power/resume")
	return contains(states, "disk") && resume != "" && resume != "0:0"
}

func dump(n *Node, f *findings) {
	loaded, err := n.text("/sys/kernel/kexec_crash_loaded")
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && loaded == "0":
		f.ok("no memory of a crashed kernel is written anywhere")
	case f.unknown(err):
	default:
		f.note("kdump is set up: keep what it writes off disks in clear, or let it leave user pages and keys out")
	}
}
