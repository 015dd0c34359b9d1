// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/voluks/voluks/internal/config"
)

var fileChecks = []Check{
	{"files.permissions", "who can write these files decides what voluks does as root; who can read some of them has keys or ciphertext", permissions},
}

// may is what others than the owner may do with a file.
type may int

const (
	nothing may = 0    // not even read
	read    may = 0o55 // read and enter, not write
)

type guarded struct {
	path string
	may  may
}

// guarded lists what must be guarded, and how.
func (n *Node) guarded() (list []guarded, err error) {
	add := func(m may, paths ...string) {
		for _, p := range paths {
			list = append(list, guarded{p, m})
		}
	}
	add(read, n.Paths.Config, n.ConfigFile, n.Paths.State, n.Paths.MountsDir(), n.Paths.Run)
	add(nothing, n.Paths.VolumesDir(), n.Paths.RemovedDir(), n.Paths.HoldersDir(), filepath.Join(n.Paths.Run, "locks"))
	add(nothing, filepath.Join(n.Paths.State, "backups"))
	add(nothing, n.pluginSocket())
	if cfg, err := n.config(); err == nil {
		for _, k := range append(cfg.Previous, cfg.KEK) {
			secrets, others := keyFiles(k)
			for _, path := range secrets {
				add(nothing, path)
				add(read, parents(path)...)
			}
			for _, path := range others {
				add(read, path)
				add(read, parents(path)...)
			}
		}
	}
	for _, dir := range []string{n.Paths.VolumesDir(), n.Paths.RemovedDir()} {
		files, err := filepath.Glob(filepath.Join(dir, "*", "*"))
		if err != nil {
			return nil, err
		}
		add(nothing, files...)
	}
	for _, path := range []string{"/usr/bin/voluks", "/usr/local/bin/voluks"} {
		add(read, n.at(path))
	}
	for _, pattern := range []string{"/etc/systemd/system/voluks*", "/usr/local/lib/systemd/system/voluks*", "/usr/lib/systemd/system/voluks*",
		"/etc/systemd/system/*.mount", "/etc/udev/rules.d/*voluks*", "/usr/lib/udev/rules.d/*voluks*"} {
		files, err := filepath.Glob(n.at(pattern))
		if err != nil {
			return nil, err
		}
		add(read, files...)
	}
	return list, nil
}

// keyFiles are the files that a key provider takes keys and credentials from, and those that decide whom it trusts with them.
func keyFiles(k config.KEK) (secrets, others []string) {
	switch {
	case k.File != nil:
		secrets = []string{k.File.Path}
	case k.KeyDir != nil:
		keys, _ := filepath.Glob(filepath.Join(k.KeyDir.Path, "*")) // fails for a wrong pattern alone
		secrets = append(keys, k.KeyDir.Path)
	case k.Credential != nil:
		secrets = []string{k.Credential.Path}
	case k.Vault != nil:
		secrets = []string{k.Vault.TokenFile, k.Vault.ClientKeyFile, k.Vault.AppRole.SecretIDFile}
		others = []string{k.Vault.CAFile, k.Vault.ClientCertFile}
	case k.Exec != nil && len(k.Exec.Command) > 0:
		others = k.Exec.Command[:1]
	}
	unnamed := func(path string) bool { return path == "" }
	return slices.DeleteFunc(secrets, unnamed), slices.DeleteFunc(slices.Clone(others), unnamed)
}

func parents(path string) []string {
	var dirs []string
	for dir := filepath.Dir(path); dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		dirs = append(dirs, dir)
	}
	return dirs
}

func permissions(n *Node, f *findings) {
	list, err := n.guarded()
	if f.unknown(err) {
		return
	}
	looked, seen := 0, map[string]bool{}
	for _, g := range list {
		if seen[g.path] {
			continue
		}
		seen[g.path] = true
		info, err := os.Lstat(g.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if f.unknown(err) {
			continue
		}
		looked++
		if what, mend := wrong(info, g.path, g.may, n.Owner); what != "" {
			f.add(Error, mend, "%s %s", g.path, what)
		}
	}
	if len(f.list) == 0 {
		f.ok("%d files and directories belong to root and are closed to others", looked)
	}
}

// wrong says what is wrong with the owner or the mode of a file, and the command that mends it; "" if nothing is.
func wrong(info fs.FileInfo, path string, m may, owner int) (what, mend string) {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if info.Mode().Type() == fs.ModeSymlink {
		return "", "" // its target is what matters, and is refused where a link is not followed
	}
	if ok && int(stat.Uid) != owner {
		return fmt.Sprintf("belongs to user %d", stat.Uid), "chown root:root " + quote(path)
	}
	mode := info.Mode()
	extra := mode.Perm() &^ 0o700 &^ fs.FileMode(m)
	if extra == 0 || mode&fs.ModeSticky != 0 && m == read {
		return "", ""
	}
	if m == read {
		return fmt.Sprintf("can be written by others than root (mode %04o)", mode.Perm()), "chmod go-w " + quote(path)
	}
	return fmt.Sprintf("is open to others than root (mode %04o)", mode.Perm()), "chmod go-rwx " + quote(path)
}

// quote makes a path safe to paste into a shell.
func quote(path string) string {
	if strings.Trim(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@:") == "" {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}
