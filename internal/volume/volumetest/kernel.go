// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/voluks/voluks/internal/sys"
)

type kernel struct{ *process }

func (p kernel) Mounts() ([]sys.MountInfo, error) {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if p.m.apart {
		return table(nil), nil
	}
	return table(p.m.mounts), nil
}

func table(mounts []*mount) []sys.MountInfo {
	all := []sys.MountInfo{{ID: rootID, Parent: 0, Major: 8, Minor: 1, Root: "/", Mountpoint: "/", FSType: "ext4", Source: "/dev/sda1", Options: "rw", SuperOptions: "rw"}}
	for _, m := range mounts {
		i := sys.MountInfo{
			ID: m.id, Parent: m.parent, Major: m.major, Minor: m.minor, Root: m.root, Mountpoint: m.target, FSType: m.fstype,
			Source: m.source, Options: "rw", SuperOptions: "rw",
		}
		if m.fstype == "btrfs" {
			i.Major, i.Minor = 0, 40+m.minor
		}
		all = append(all, i)
	}
	return all
}

func (p kernel) Mappings() ([]sys.DMDevice, error) {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return nil, err
	}
	defer unlock()
	var all []sys.DMDevice
	for _, m := range p.m.mappings {
		params := m.table
		if params == "" {
			params = fmt.Sprintf("aes-xts-plain64 :64:logon:cryptsetup:%s-d0 0 %d:%d 32768", m.uuid, m.lower.Major, m.lower.Minor)
			var options []string
			for option, on := range map[string]bool{
				fmt.Sprintf("sector_size:%d", m.box.sectorSize): m.box.sectorSize != 512, "allow_discards": m.options.Discards,
				"no_read_workqueue": m.options.NoReadWorkqueue, "no_write_workqueue": m.options.NoWriteWorkqueue,
			} {
				if on {
					options = append(options, option)
				}
			}
			if len(options) > 0 {
				params += fmt.Sprintf(" %d %s", len(options), strings.Join(options, " "))
			}
		}
		count := 0
		if p.m.uses(m) {
			count = 1
		}
		all = append(all, sys.DMDevice{
			Name: m.name, UUID: "CRYPT-LUKS2-" + strings.ReplaceAll(m.uuid, "-", "") + "-" + m.name, Major: dmMajor, Minor: m.minor,
			OpenCount: count, Suspended: m.suspended,
			Targets: []sys.DMTarget{{Length: uint64(m.length) / 512, Type: "crypt", Params: params}},
		})
	}
	return all, nil
}

func (p kernel) BtrfsDevices(fsUUID string) ([]sys.Dev, error) {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, m := range p.m.mounts {
		if m.fs != nil && m.fs.typ == "btrfs" && m.fs.uuid == fsUUID {
			return []sys.Dev{{Major: m.major, Minor: m.minor, Name: fmt.Sprintf("dm-%d", m.minor)}}, nil
		}
	}
	return nil, nil
}

func (p kernel) FSErrors(fstype string, minor uint32) (int, error) {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return 0, err
	}
	defer unlock()
	for _, m := range p.m.mappings {
		if m.minor == minor && fstype == "ext4" {
			return m.errors, nil
		}
	}
	return 0, nil
}

func (p kernel) Namespaces() ([]sys.MountNamespace, error) {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return nil, err
	}
	defer unlock()
	if p.m.unknown {
		return nil, errors.New("volumetest: /proc cannot be read")
	}
	all := []sys.MountNamespace{{NS: 1, PIDs: []int{1}, Mounts: table(p.m.mounts)}}
	for _, ns := range p.m.namespaces {
		all = append(all, sys.MountNamespace{NS: uint64(ns.PID), PIDs: []int{ns.PID}, Mounts: table(ns.mounts)})
	}
	return all, nil
}

func (p kernel) ProcessStart(pid int) (uint64, error) {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return 0, err
	}
	defer unlock()
	if p.m.unknown {
		return 0, errors.New("volumetest: /proc cannot be read")
	}
	if start, ok := p.m.processes[pid]; ok {
		return start, nil
	}
	return 0, os.ErrNotExist
}

func (p kernel) BootID() (string, error) {
	unlock, err := p.begin(context.Background())
	if err != nil {
		return "", err
	}
	defer unlock()
	return fmt.Sprintf("boot-%d", p.m.boots), nil
}
