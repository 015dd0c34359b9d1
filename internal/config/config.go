// SPDX-License-Identifier: Apache-2.0

// Package config reads and writes the configuration of a node. It is plain data: reading it asks the
// kernel and the key providers nothing, so that a configuration can be judged where it is not used.
//
// The reading is strict. A key that is not known, a setting of a provider that is not selected or a
// value of the wrong kind is an error with its line, because a misspelt setting that is skipped in
// silence is found on the day that it was needed.
package config

import (
	"errors"
	"fmt"
	"time"

	"github.com/voluks/voluks/internal/atomicfile"
)

// maxFile bounds what is read: a configuration is a few KiB.
const maxFile = 1 << 20

// Config is the configuration of a node, complete (what was not set has its default) and checked.
type Config struct {
	// KEK is the provider that wraps the keys of new slots.
	KEK KEK
	// Previous are providers that only unwrap, in the order in which they are tried.
	Previous []KEK
	Recovery Recovery // who can open volumes without this node
	Volumes  Volumes  // what a new volume is without options
	Backing  Backing  // devices and volume groups that volumes may lie on
	Docker   Docker   // where Docker finds voluks
	Backup   Backup   // where header backups lie beside the state directory
	Remove   Remove   // what becomes of removed volumes
	Rotation Rotation // when the agent changes keys by itself
}

// Recovery says to whom the recovery slot of each volume is sealed.
type Recovery struct {
	// None is the deliberate choice to have no recovery slot.
	None bool
	// Recipients are age recipients (public keys), all X25519 or all post-quantum. Their shape is
	// checked here, their checksum where they are used.
	Recipients []string
	// Confirmed says that somebody has stated that the identity is kept. Until then no volume is
	// created.
	Confirmed bool
	// Drill is how often the identity shall be tried ("voluks recovery verify"); the status says when that is overdue. 0 is never. It says nothing with None.
	Drill time.Duration
}

// Volumes are the defaults and limits of new volumes.
type Volumes struct {
	// DefaultSize is in bytes.
	DefaultSize int64
	// DefaultFS is "ext4", "xfs" or "btrfs".
	DefaultFS string
	// Overcommit allows sparse images, whose promises the disk may not be able to keep.
	Overcommit bool
	// Workqueue says whether dm-crypt puts the requests of new volumes into queues of its own: "auto" (by the kind of disk), "on" or "off".
	Workqueue string
}

// Backing says where volumes may lie apart from images.
type Backing struct {
	// Devices are block devices that may become volumes, by names that stay with the medium.
	Devices []string
	// VolumeGroups are the volume groups of LVM in which volumes may be made.
	VolumeGroups []string
}

// Docker are the settings of the volume plugin.
type Docker struct {
	// Socket is the absolute path of the plugin's socket.
	Socket string
}

// Backup says where header backups go, besides the node's own state.
type Backup struct {
	// Directory is the absolute path of a directory that gets a second copy of each; "" is none. It may
	// be unmounted or gone at any moment.
	Directory string
}

// Remove says what becomes of removed volumes.
type Remove struct {
	// Keep is how long a removed volume stays recoverable; 0 is not at all.
	Keep time.Duration
}

// Rotation says when key slots are rotated without being asked.
type Rotation struct {
	// MaxAge is the age from which on a slot is rotated; 0 is never.
	MaxAge time.Duration
}

// Default is the configuration that an empty file gives, with files below p. It has no recovery
// recipient, so that it opens volumes and refuses to create them.
func Default(p Paths) Config {
	return Config{
		KEK:     KEK{Provider: "file", File: &File{Path: p.MasterKey()}},
		Volumes: Volumes{DefaultSize: 10 << 30, DefaultFS: "ext4", Workqueue: "auto"},
		// Twice a year: often enough to notice in time that an owner of a share has left.
		Recovery: Recovery{Drill: 180 * day},
		Docker:   Docker{Socket: p.DockerSocket()},
		Remove:   Remove{Keep: 24 * time.Hour},
	}
}

// Load reads the configuration of a node. A missing file is an error that wraps fs.ErrNotExist; what
// is wrong inside is one *Error per problem, joined.
func Load(p Paths) (Config, error) {
	data, err := atomicfile.Read(p.ConfigFile(), maxFile)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	return Parse(p.ConfigFile(), data, p)
}

// Error is one thing that is wrong in a configuration.
type Error struct {
	File string // as given to Parse
	Line int    // from 1; 0 if it concerns the file as a whole
	Key  string // dotted, such as "kek.file.path" or "previous[0].provider"; "" for bad TOML
	Msg  string // what is wrong with Key
}

// Error implements error.
func (e *Error) Error() string {
	where := e.File
	if e.Line > 0 {
		where = fmt.Sprintf("%s:%d", e.File, e.Line)
	}
	if e.Key == "" {
		return fmt.Sprintf("%s: %s", where, e.Msg)
	}
	return fmt.Sprintf("%s: %s: %s", where, e.Key, e.Msg)
}

// problems collects errors about one file.
type problems struct {
	file string
	errs []error
}

func (p *problems) add(line int, key, format string, args ...any) {
	p.errs = append(p.errs, &Error{File: p.file, Line: line, Key: key, Msg: fmt.Sprintf(format, args...)})
}

func (p *problems) err() error { return errors.Join(p.errs...) }
