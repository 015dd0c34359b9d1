// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/voluks/voluks/dockerplugin"
	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/keyfile"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
	"github.com/voluks/voluks/luks"
	"github.com/voluks/voluks/luks/header"
)

// hint says what a person can do about an error, with a command that can be run as it stands where there is one. It is the only place that
// does: what lies below says what is wrong.
func hint(err error) []string {
	var (
		usage    *usageError
		refused  *refusedError
		setup    *setupError
		exists   *existsError
		untested *untestedError
		agent    *agentError
		cfg      *config.Error
		key      *keyfile.Error
		vol      *volume.Error
		setting  *kek.ConfigError
		stopped  *interruptedError
		bulk     *bulkError
		luks1    *luks1Error
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &stopped) && errors.As(err, &bulk) && bulk.again != "":
		return []string{"go on with those that are left: " + bulk.again}
	case errors.As(err, &usage):
		return []string{usage.command + " --help"}
	case errors.As(err, &refused):
		return refusedHint(refused)
	case errors.As(err, &setup):
		return []string{"set this node up: voluks init"}
	case errors.As(err, &untested):
		hints := hint(untested.err)
		if untested.table != "" && errors.As(err, &setting) && !kek.MayPass(err) { // nothing is configured yet
			hints = []string{fmt.Sprintf("edit %s in %s, and then: voluks init --kek %[2]s", strings.TrimPrefix(setting.Setting, "kek."), shellQuote(untested.table))}
		}
		return append(hints, "to set up this node all the same, and try it later with \"voluks kek test\": --untested")
	case errors.As(err, &exists):
		return exists.hints
	case errors.As(err, &agent):
		return []string{"systemctl status voluks.service", "to run this one instead: systemctl stop voluks.socket voluks.service"}
	case errors.Is(err, dockerplugin.ErrServed):
		return []string{"let systemd start the agent for its socket: systemctl start voluks.service", "or take the socket away from it: systemctl stop voluks.socket"}
	case errors.As(err, &cfg):
		if cfg.Line > 0 {
			return []string{fmt.Sprintf("edit that line: sudoedit +%d %s", cfg.Line, cfg.File)}
		}
		return nil
	case errors.As(err, &key):
		return keyFileHint(key)
	case errors.Is(err, fs.ErrPermission):
		return []string{"voluks manages devices and keys, and so must run as root: sudo voluks ..."}
	case errors.As(err, &luks1):
		return []string{"keep a copy of its header: cryptsetup luksHeaderBackup --header-backup-file FILE " + shellQuote(luks1.device),
			"then convert it while it is closed: cryptsetup convert --type luks2 " + shellQuote(luks1.device)}
	case errors.Is(err, luks.ErrLastSlot):
		return []string{"add another key first: voluks keyslot add DEVICE", "to destroy all data with it: --last-slot"}
	case errors.Is(err, keyslot.ErrManaged):
		return []string{"slots of systemd: systemd-cryptenroll --wipe-slot=N DEVICE", "slots of clevis: clevis luks unbind -d DEVICE -s N", "slots of voluks: voluks keyslot rotate NAME"}
	case errors.As(err, &vol):
		return volumeHint(vol)
	case kek.MayPass(err):
		return []string{"it may pass; to try again: voluks kek test"}
	case errors.As(err, &setting):
		return []string{"edit " + setting.Setting + ", and then: voluks kek test"}
	}
	return nil
}

func refusedHint(err *refusedError) []string {
	switch err.retry {
	case "":
		return nil
	case "voluks init":
		return []string{"on a terminal, to see it: voluks init", "into a file: voluks init --recovery-identity-file FILE",
			"with an identity that exists: voluks init --recovery-recipient age1...", "without: voluks init --no-recovery"}
	}
	return []string{"to do it without being asked: " + err.retry}
}

// keyFileHint says how each kind of wrong key file is put right.
func keyFileHint(err *keyfile.Error) []string {
	path := err.Path
	convert := func(decode string) []string {
		return []string{fmt.Sprintf("convert it: (umask 077; %s <%s >%s.raw) && mv %s.raw %s", decode, path, path, path, path)}
	}
	switch {
	case errors.Is(err, keyfile.ErrMissing):
		return []string{"restore it from its backup; another key does not open the volumes that exist", "on a node without volumes: voluks init"}
	case errors.Is(err, keyfile.ErrOpen):
		return []string{"others may have read it; if nobody can have: chmod 0600 " + path}
	case errors.Is(err, keyfile.ErrOwner):
		return []string{"chown root:root " + path}
	case errors.Is(err, keyfile.ErrHex):
		return convert("xxd -r -p")
	case errors.Is(err, keyfile.ErrBase64):
		return convert("base64 -d")
	case errors.Is(err, keyfile.ErrNewline):
		return []string{"take the newline off: truncate -s 32 " + path}
	case errors.Is(err, keyfile.ErrShort), errors.Is(err, keyfile.ErrLong), errors.Is(err, keyfile.ErrNotRandom):
		return []string{"a master key is 32 raw bytes, as voluks init makes it; restore it from its backup"}
	case errors.Is(err, keyfile.ErrExists):
		return []string{"to set up this node with that key: voluks init --keep-master-key"}
	}
	return nil
}

// volumeHint goes by the kind of failure; what the text of the error says already is not repeated.
func volumeHint(err *volume.Error) []string {
	inspect := "voluks volume inspect " + err.Volume
	if err.Volume == "" {
		inspect = "voluks volume ls"
	}
	switch err.Code {
	case volume.CodeNotFound:
		if err.Op == volume.OpImport {
			return nil
		}
		if err.Op == "find" || err.Op == "undelete" || err.Op == volume.ActionErase {
			return []string{"voluks volume ls --removed", "a volume that was not removed is removed first: voluks volume rm NAME"}
		}
		return []string{"voluks volume ls"}
	case volume.CodeExists:
		if err.Op == "undelete" || err.Op == volume.OpImport {
			return []string{"voluks volume ls"}
		}
		return []string{inspect, "options are fixed when a volume is made: use another name, or copy the data over"}
	case volume.CodeUnfinished:
		var migrating *volume.MigratingError
		if errors.As(err, &migrating) {
			return []string{"finish it: voluks volume migrate " + shellQuote(migrating.Source) + " " + err.Volume, "or give it up; the source is as it was: voluks volume rm " + err.Volume}
		}
		return []string{"finish it with the options that it was begun with: voluks volume create " + err.Volume, "or give it up: voluks volume rm " + err.Volume}
	case volume.CodeInUse, volume.CodeBusy:
		if err.Op == migrateOp {
			return migrateHint(err)
		}
		return heldHint(err, inspect)
	case volume.CodeLocked:
		if err.Op == volume.ActionVerify {
			return []string{"whose identities are wanted: voluks recovery show"}
		}
		return []string{"see which key it wants, and whether it can be had: voluks kek ls"}
	case volume.CodeStuck:
		return []string{"a device below does not answer; what the kernel says: dmesg | tail", "which mapping is suspended: dmsetup info -c"}
	case volume.CodeDamaged:
		if err.Op == migrateOp {
			return migrateHint(err)
		}
		if errors.Is(err, header.ErrNotLUKS) || errors.Is(err, header.ErrDamaged) {
			return []string{"put a backup of its header back: voluks header restore " + err.Volume, "what backups there are: voluks header ls " + err.Volume}
		}
		return []string{inspect, "what is left of its header: cryptsetup luksDump " + imageOf(err.Volume)}
	case volume.CodePlaintext:
		return []string{inspect}
	case volume.CodeNoRecovery:
		return []string{"make an identity, and recovery slots for all volumes: voluks recovery init", "if this node has confirmed recipients: voluks recovery rekey"}
	case volume.CodeConfig:
		return []string{"edit /etc/voluks/config.toml"}
	case volume.CodeNoSpace:
		if err.Op == migrateOp {
			return migrateHint(err)
		}
		return []string{"df -h /var/lib/voluks", "or make it smaller: --size", "what removed volumes keep: voluks volume ls --removed; to give it up: voluks volume erase NAME"}
	case volume.CodeNoDM:
		return []string{"modprobe dm-crypt", "a kernel without device-mapper (some containers and small virtual machines) cannot run voluks"}
	case volume.CodeNoTool:
		return noToolHint(err)
	case volume.CodeInvalid:
		switch err.Op {
		case "create":
			return []string{"voluks volume create --help"}
		case migrateOp:
			return []string{"voluks volume migrate --help"}
		case "find", "undelete":
			return []string{"voluks volume ls --removed"}
		}
		return []string{"voluks volume ls"}
	}
	return nil
}

func migrateHint(err *volume.Error) []string {
	var held *volume.HeldError
	switch {
	case errors.As(err, &held):
		return heldHint(err, "voluks volume inspect "+err.Volume)
	case err.Code == volume.CodeNoSpace:
		return []string{"make it larger, and go on with the same command: voluks volume grow " + err.Volume + " SIZE"}
	case err.Code == volume.CodeDamaged:
		return []string{"what the disks have to say: dmesg | tail", "no plain data was removed; to begin with an empty volume: voluks volume rm " + err.Volume}
	}
	return []string{"no plain data was lost; once that is settled, the same command goes on"}
}

func heldHint(err *volume.Error, inspect string) []string {
	var occupied *volume.OccupiedError
	if errors.As(err, &occupied) {
		return occupiedHint(occupied)
	}
	var held *volume.HeldError
	if !errors.As(err, &held) && err.Code == volume.CodeInUse {
		return []string{"who has its image: losetup -j " + imageOf(err.Volume)}
	}
	if held == nil {
		return []string{"try again; to see what goes on: " + inspect}
	}
	var hints []string
	for _, h := range held.Holders {
		switch h.Kind {
		case volume.HolderDocker:
			hints = appendOnce(hints, fmt.Sprintf("containers that have it: docker ps -a --filter volume=%s", err.Volume))
		case volume.HolderPodman:
			hints = appendOnce(hints, fmt.Sprintf("containers that have it: podman ps -a --filter volume=%s", err.Volume))
		default:
			hints = appendOnce(hints, fmt.Sprintf("voluks volume umount --holder %s %s", shellQuote(h.ID), err.Volume))
		}
	}
	return appendOnce(hints, inspect)
}

func occupiedHint(err *volume.OccupiedError) []string {
	look := "what is on it: lsblk -f " + shellQuote(err.Device)
	if err.Serial == "" {
		return []string{look, "to destroy it: wipefs --all " + shellQuote(err.Device)}
	}
	return []string{look, "to destroy it, repeat the command with --wipe-serial " + shellQuote(err.Serial)}
}

// imageOf is where the ciphertext of a volume lies.
func imageOf(name string) string {
	return filepath.Join(config.DefaultPaths().VolumeDir(name), "image")
}

func noToolHint(err *volume.Error) []string {
	var tool *filesystem.ErrNoTool
	if errors.As(err, &tool) && tool.Package != "" {
		return []string{"apt install " + tool.Package}
	}
	return nil
}

func appendOnce(list []string, s string) []string {
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}

// shellQuote makes one word of the shell.
func shellQuote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-/:@%+=") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
