// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"

	"github.com/voluks/voluks/internal/atomicfile"
)

// Example is the commented configuration of a node before "voluks init" has added the recipient:
// every setting with its default.
func Example() []byte { return Default(DefaultPaths()).Render() }

// Write replaces the configuration of a node, atomically. Comments that a person has added are lost,
// so it is for a new file, or for a change that was asked for.
func Write(p Paths, cfg Config) error {
	data := cfg.Render()
	if _, err := Parse(p.ConfigFile(), data, p); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	// Readable by all: it holds no secret, and a person without root may want to see it.
	if err := atomicfile.Write(p.ConfigFile(), data, 0o644); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

const noRecovery = "# Volumes have no recovery slot: whoever loses the key below loses them."

// Render writes the configuration as a commented file that Parse reads back to the same Config.
func (c Config) Render() []byte {
	var out bytes.Buffer
	line := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }

	line("# Configuration of voluks. Unknown keys are errors. Sizes: 512M, 10G. Durations: 24h, 90d.")
	line("")
	if c.Recovery.None {
		line(noRecovery)
		line(`recovery = "none"`)
		line("")
	}
	line("# The key that guards the key slots of new volumes. It wraps and unwraps.")
	c.KEK.render(line, "kek", "[kek]")
	line("# Keys that only unwrap, while volumes still need them. One [[previous]] table each:")
	line("# [[previous]]")
	line(`# provider = "file"`)
	line("# [previous.file]")
	line(`# path = "/etc/voluks/master.key.old"`)
	line("")
	for _, previous := range c.Previous {
		previous.render(line, "previous", "[[previous]]")
	}
	for text := range strings.Lines(otherProviders) {
		line("%s", strings.TrimRight("# "+text, " \n"))
	}
	line("")
	c.Recovery.render(line)
	line("[volumes]")
	line("# Size and file system (%s) of a volume that does not say.", strings.Join(fileSystems, ", "))
	line("default_size = %s", quote(SizeText(c.Volumes.DefaultSize)))
	line("default_fs = %s", quote(c.Volumes.DefaultFS))
	line("# Allow alloc=sparse: images that grow, up to more than the disk holds. When it is full, ext4")
	line("# on such an image loses writes without an error.")
	line("overcommit = %t", c.Volumes.Overcommit)
	line("# Whether dm-crypt puts requests into queues of its own: on, off, or auto: off above disks that do")
	line("# not rotate. Kept in the header of a volume when it is made.")
	line("workqueue = %s", quote(c.Volumes.Workqueue))
	line("")
	line("[backing]")
	line("# Where volumes may lie apart from images. What is listed here may be formatted: block devices by")
	line("# a stable name, and volume groups of LVM.")
	list := func(key string, values []string, example string) {
		if len(values) == 0 {
			line("# %s = [%s]", key, quote(example))
			return
		}
		line("%s = [", key)
		for _, value := range values {
			line("  %s,", quote(value))
		}
		line("]")
	}
	list("devices", c.Backing.Devices, "/dev/disk/by-id/ata-DISK_SERIAL")
	list("volume_groups", c.Backing.VolumeGroups, "vg0")
	line("")
	line("[docker]")
	line("# Where Docker looks for the volume plugin.")
	line("socket = %s", quote(c.Docker.Socket))
	line("")
	line("[backup]")
	line("# A directory on another disk for a second copy of each header backup. Left out: none.")
	if c.Backup.Directory == "" {
		line(`# directory = "/mnt/other/voluks"`)
	} else {
		line("directory = %s", quote(c.Backup.Directory))
	}
	line("")
	line("[remove]")
	line("# How long a removed volume can be brought back before its key is destroyed.")
	line("keep = %s", quote(DurationText(c.Remove.Keep)))
	line("")
	line("[rotation]")
	line("# Age from which on key slots are rotated by themselves. Left out: only when asked.")
	if c.Rotation.MaxAge == 0 {
		line(`# max_age = "90d"`)
	} else {
		line("max_age = %s", quote(DurationText(c.Rotation.MaxAge)))
	}
	return out.Bytes()
}

// Render writes the settings of a provider as the table of that name, such as "kek", without comments.
func (k KEK) Render(name string) []byte {
	var out bytes.Buffer
	k.render(func(format string, args ...any) {
		if text := fmt.Sprintf(format, args...); !strings.HasPrefix(text, "#") && text != "" {
			fmt.Fprintln(&out, text)
		}
	}, name, "["+name+"]")
	return out.Bytes()
}

func (k KEK) render(line func(string, ...any), name, header string) {
	line("%s", header)
	line("provider = %s", quote(k.Provider))
	switch {
	case k.Timeout != 0:
		line("timeout = %s", quote(DurationText(k.Timeout)))
	case name == "kek":
		line(`# timeout = "20s" # how long it may take for one call`)
	}
	line("")
	if k.File != nil {
		line("# Exactly 32 random bytes, owned by root, not readable by anyone else.")
	}
	value := reflect.ValueOf(k)
	for i := range value.NumField() {
		if settings := value.Field(i); settings.Kind() == reflect.Pointer && !settings.IsNil() {
			renderTable(line, name+"."+k.Provider, settings.Elem())
		}
	}
}

func (r Recovery) render(line func(string, ...any)) {
	switch {
	case r.None:
	case len(r.Recipients) == 0:
		line("# Who can open every volume when this node or its key is gone: age recipients (public keys).")
		line(`# "voluks init" makes one and prints its identity, which is kept elsewhere. Without a confirmed`)
		line(`# recipient no volume is created, unless recovery = "none" stands at the top of this file.`)
		line("# [recovery]")
		line(`# recipients = ["age1..."]`)
		line("# confirmed = true")
		line("# drill = %s", quote(DurationText(r.Drill)))
		line("")
	default:
		line("# Who can open every volume when this node or its key is gone: age recipients (public keys).")
		line("# confirmed: somebody has stated that the identity is kept. No volume is created before.")
		line("[recovery]")
		line("recipients = [")
		for _, recipient := range r.Recipients {
			line("  %s,", quote(recipient))
		}
		line("]")
		line("confirmed = %t", r.Confirmed)
		line("# How often the identity shall be tried with \"voluks recovery verify\"; \"0\" is never. The status says")
		line("# when that is overdue.")
		line("drill = %s", quote(DurationText(r.Drill)))
		line("")
	}
}

// quote writes a TOML basic string.
func quote(s string) string {
	var out strings.Builder
	out.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			out.WriteByte('\\')
			out.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&out, `\u%04X`, r)
		default:
			out.WriteRune(r)
		}
	}
	out.WriteByte('"')
	return out.String()
}
