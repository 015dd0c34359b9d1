// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/voluks/voluks/dockerplugin"
	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/filesystem"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/keyfile"
	"github.com/voluks/voluks/internal/volume"
)

func ofVolume(code volume.Code, cause error) error {
	return &volume.Error{Code: code, Op: "mount", Volume: "db", Err: cause}
}

// Each kind of error: its exit status, its code for programs, and what a person is told to do.
func TestErrors(t *testing.T) {
	some := errors.New("some cause")
	keyFile := func(err error) error { return &keyfile.Error{Path: "/k", Err: err} }
	for _, test := range []struct {
		name  string
		err   error
		exit  int
		code  string
		hints []string
	}{
		{"nothing", nil, 0, "", nil},
		{"anything", some, 1, "failure", nil},
		{"usage", &usageError{"voluks volume rm", "x"}, 2, "usage", []string{"voluks volume rm --help"}},
		{"bad option", &volume.Error{Code: volume.CodeInvalid, Op: "create", Volume: "db", Err: some}, 2, "invalid", []string{"voluks volume create --help"}},
		{"bad name", ofVolume(volume.CodeInvalid, some), 2, "invalid", []string{"voluks volume ls"}},
		{"not found", ofVolume(volume.CodeNotFound, some), 3, "not_found", []string{"voluks volume ls"}},
		{"exists", ofVolume(volume.CodeExists, some), 4, "exists_differs",
			[]string{"voluks volume inspect db", "options are fixed when a volume is made: use another name, or copy the data over"}},
		{"set up already", &existsError{err: some, hints: []string{"h"}}, 4, "exists", []string{"h"}},
		{"key exists", fmt.Errorf("x: %w", keyFile(keyfile.ErrExists)), 4, "exists", []string{"to set up this node with that key: voluks init --keep-master-key"}},
		{"held by docker", ofVolume(volume.CodeInUse, &volume.HeldError{Holders: []volume.Holder{{ID: "1", Kind: volume.HolderDocker}, {ID: "2", Kind: volume.HolderDocker}}}),
			5, "in_use", []string{"containers that have it: docker ps -a --filter volume=db", "voluks volume inspect db"}},
		{"held by others", ofVolume(volume.CodeInUse, &volume.HeldError{Holders: []volume.Holder{{ID: "my cron's", Kind: volume.HolderCLI}, {ID: "p", Kind: volume.HolderPodman}}}),
			5, "in_use", []string{`voluks volume umount --holder 'my cron'\''s' db`, "containers that have it: podman ps -a --filter volume=db", "voluks volume inspect db"}},
		{"image in other hands", ofVolume(volume.CodeInUse, some), 5, "in_use", []string{"who has its image: losetup -j /var/lib/voluks/volumes/db/image"}},
		{"busy", ofVolume(volume.CodeBusy, some), 5, "busy", []string{"try again; to see what goes on: voluks volume inspect db"}},
		{"second agent", &agentError{pid: 7}, 5, "agent_running", []string{"systemctl status voluks.service", "to run this one instead: systemctl stop voluks.socket voluks.service"}},
		{"locked", ofVolume(volume.CodeLocked, kek.ErrDenied), 6, "locked", []string{"see which key it wants, and whether it can be had: voluks kek ls"}},
		{"locked by a key file", ofVolume(volume.CodeConfig, &kek.ConfigError{Setting: "kek.file.path", Err: keyFile(keyfile.ErrOpen)}), 12, "config",
			[]string{"others may have read it; if nobody can have: chmod 0600 /k"}},
		{"refused", &refusedError{"x", "voluks volume rm --force db"}, 7, "refused", []string{"to do it without being asked: voluks volume rm --force db"}},
		{"answered no", &refusedError{"x", ""}, 7, "refused", nil},
		{"damaged", ofVolume(volume.CodeDamaged, some), 8, "damaged", []string{"voluks volume inspect db", "what is left of its header: cryptsetup luksDump /var/lib/voluks/volumes/db/image"}},
		{"plaintext", ofVolume(volume.CodePlaintext, some), 8, "plaintext", []string{"voluks volume inspect db"}},
		{"unfinished", ofVolume(volume.CodeUnfinished, some), 8, "unfinished",
			[]string{"finish it with the options that it was begun with: voluks volume create db", "or give it up: voluks volume rm db"}},
		{"no space", ofVolume(volume.CodeNoSpace, some), 9, "no_space", []string{"df -h /var/lib/voluks", "or make it smaller: --size",
			"what removed volumes keep: voluks volume ls --removed; to give it up: voluks volume erase NAME"}},
		{"no dm", ofVolume(volume.CodeNoDM, some), 10, "no_dm",
			[]string{"modprobe dm-crypt", "a kernel without device-mapper (some containers and small virtual machines) cannot run voluks"}},
		{"no tool", ofVolume(volume.CodeNoTool, &filesystem.ErrNoTool{Tool: "mkfs.xfs", Package: "xfsprogs"}), 10, "no_tool", []string{"apt install xfsprogs"}},
		{"timeout", ofVolume(volume.CodeTimeout, some), 11, "timeout", nil},
		{"stuck", ofVolume(volume.CodeStuck, some), 11, "stuck",
			[]string{"a device below does not answer; what the kernel says: dmesg | tail", "which mapping is suspended: dmsetup info -c"}},
		{"not set up", &setupError{some}, 12, "config", []string{"set this node up: voluks init"}},
		{"not set up, from below", ofVolume(volume.CodeConfig, &setupError{some}), 12, "config", []string{"set this node up: voluks init"}},
		{"bad configuration", errors.Join(&config.Error{File: "/c", Line: 12, Key: "k", Msg: "m"}, &config.Error{File: "/c", Line: 14}), 12, "config",
			[]string{"edit that line: sudoedit +12 /c"}},
		{"no recovery", ofVolume(volume.CodeNoRecovery, some), 12, "no_recovery",
			[]string{"make an identity, and recovery slots for all volumes: voluks recovery init", "if this node has confirmed recipients: voluks recovery rekey"}},
		{"identity of others", &volume.Error{Code: volume.CodeLocked, Op: "verify", Volume: "db", Err: some}, 6, "locked", []string{"whose identities are wanted: voluks recovery show"}},
		{"missing key", keyFile(keyfile.ErrMissing), 12, "config",
			[]string{"restore it from its backup; another key does not open the volumes that exist", "on a node without volumes: voluks init"}},
		{"hex key", keyFile(keyfile.ErrHex), 12, "config", []string{"convert it: (umask 077; xxd -r -p </k >/k.raw) && mv /k.raw /k"}},
		{"base64 key", keyFile(keyfile.ErrBase64), 12, "config", []string{"convert it: (umask 077; base64 -d </k >/k.raw) && mv /k.raw /k"}},
		{"key with newline", keyFile(keyfile.ErrNewline), 12, "config", []string{"take the newline off: truncate -s 32 /k"}},
		{"short key", keyFile(keyfile.ErrShort), 12, "config", []string{"a master key is 32 raw bytes, as voluks init makes it; restore it from its backup"}},
		{"key of somebody", keyFile(keyfile.ErrOwner), 12, "config", []string{"chown root:root /k"}},
		{"key server away", &kek.ConfigError{Setting: "kek.vault.token_file", Err: kek.ErrUnavailable}, 6, "locked", []string{"it may pass; to try again: voluks kek test"}},
		{"provider set up wrongly", &kek.ConfigError{Setting: "kek.vault.key", Err: some}, 12, "config", []string{"edit kek.vault.key, and then: voluks kek test"}},
		{"init with a provider that does not work", &untestedError{err: kek.ErrDenied}, 6, "locked",
			[]string{"to set up this node all the same, and try it later with \"voluks kek test\": --untested"}},
		{"init with settings that are wrong", &untestedError{&kek.ConfigError{Setting: "kek.vault.key", Err: some}, "/root/kek.toml"}, 12, "config",
			[]string{"edit vault.key in /root/kek.toml, and then: voluks init --kek /root/kek.toml",
				"to set up this node all the same, and try it later with \"voluks kek test\": --untested"}},
		{"served", fmt.Errorf("listen: %w", dockerplugin.ErrServed), 1, "failure",
			[]string{"let systemd start the agent for its socket: systemctl start voluks.service", "or take the socket away from it: systemctl stop voluks.socket"}},
		{"not root", fmt.Errorf("x: %w", &fs.PathError{Op: "open", Path: "/x", Err: os.ErrPermission}), 1, "failure",
			[]string{"voluks manages devices and keys, and so must run as root: sudo voluks ..."}},
		{"interrupted", &interruptedError{ofVolume(volume.CodeCanceled, context.Canceled)}, 130, "interrupted", nil},
		{"canceled", ofVolume(volume.CodeCanceled, some), 130, "interrupted", nil},
	} {
		if got := exitCode(test.err); got != test.exit {
			t.Errorf("%s: exit status %d, want %d", test.name, got, test.exit)
		}
		if test.err != nil && errorCode(test.err) != test.code {
			t.Errorf("%s: code %q, want %q", test.name, errorCode(test.err), test.code)
		}
		if got := hint(test.err); !reflect.DeepEqual(got, test.hints) {
			t.Errorf("%s: hints\n%q, want\n%q", test.name, got, test.hints)
		}
	}
}

// The table is complete, and each status has one meaning.
func TestExitTable(t *testing.T) {
	known := map[int]bool{}
	for _, row := range exitTable {
		if known[row.code] {
			t.Errorf("status %d is there twice", row.code)
		}
		known[row.code] = true
	}
	for code, status := range byCode {
		if !known[status] {
			t.Errorf("%s exits with %d, which --help does not know", code, status)
		}
	}
	if all := exitStatus(); strings.Count(all, "\n") != len(exitTable) {
		t.Errorf("the table is not whole:\n%s", all)
	}
	if some := exitStatus(exitNoSpace); !strings.Contains(some, "no space") || strings.Contains(some, "interrupted") {
		t.Errorf("got:\n%s", some)
	}
}
