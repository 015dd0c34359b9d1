// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"io/fs"
	"strings"
)

var kernelChecks = []Check{
	{"kernel.device-mapper", "every volume is a device-mapper device; without it none can be opened", func(n *Node, f *findings) {
		driver(n, f, "/proc/misc", "device-mapper", "dm-mod")
	}},
	{"kernel.dm-crypt", "it encrypts and decrypts what volumes hold; without it none can be opened", func(n *Node, f *findings) {
		driver(n, f, "", "", "dm-crypt")
	}},
	{"kernel.loop", "a volume in an image file reaches device-mapper through a loop device", func(n *Node, f *findings) {
		driver(n, f, "/proc/misc", "loop-control", "loop")
	}},
	{"kernel.xts", "volumes are encrypted with AES in XTS mode", func(n *Node, f *findings) {
		driver(n, f, "/proc/crypto", "xts(aes)", "xts")
	}},
	{"kernel.skcipher", "libcryptsetup decrypts key slots through it; otherwise each unlock needs a temporary mapping", skcipher},
	{"kernel.keyring", "volume keys reach the kernel through its keyring, so that they stand in no device-mapper table", keyring},
	{"cpu.aes", "AES in software costs most of the throughput of a fast disk, and the CPU time of the services beside it", aes},
}

// module says how a kernel module is there.
type module int

const (
	absent   module = iota // the kernel does not have it
	loadable               // it is a file that can be loaded
	present                // it is loaded, or part of the kernel
)

// module looks for a kernel module, by its name with dashes.
func (n *Node) module(name string) (module, error) {
	loaded, err := n.has("/sys/module/" + strings.ReplaceAll(name, "-", "_"))
	if err != nil || loaded {
		return present, err
	}
	release, err := n.text("/proc/sys/kernel/osrelease")
	if err != nil {
		return absent, err
	}
	for _, at := range []struct {
		file  string
		found module
	}{{"modules.builtin", present}, {"modules.dep", loadable}} {
		text, err := n.text("/lib/modules/" + release + "/" + at.file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a kernel without modules, or a container without those of its kernel
		}
		if err != nil {
			return absent, err
		}
		for line := range strings.Lines(text) {
			path, _, _ := strings.Cut(line, ":")
			file := strings.TrimSpace(path[strings.LastIndexByte(path, '/')+1:])
			base, _, ok := strings.Cut(file, ".ko")
			if ok && strings.ReplaceAll(base, "_", "-") == name {
				return at.found, nil
			}
		}
	}
	return absent, nil
}

// driver reports a part of the kernel that volumes need: what shows that it is at work, or else the module.
func driver(n *Node, f *findings, table, entry, name string) {
	if table != "" {
		text, err := n.text(table)
		if err == nil && contains(text, entry) {
			f.ok("the kernel has it (%s)", name)
			return
		}
	}
	m, err := n.module(name)
	switch {
	case f.unknown(err):
	case m == present:
		f.ok("the kernel has it (%s)", name)
	case m == loadable:
		f.ok("%s is not loaded yet; it is when the first volume is opened", name)
	default:
		f.add(Error, "boot a kernel that has "+name+"; those of containers and of some small virtual machines do not", "the kernel has no %s", name)
	}
}

// contains tells whether a word stands on its own somewhere in a table.
func contains(text, word string) bool {
	for line := range strings.Lines(text) {
		for _, field := range strings.Fields(line) {
			if field == word {
				return true
			}
		}
	}
	return false
}

func skcipher(n *Node, f *findings) {
	m, err := n.module("algif-skcipher")
	switch {
	case f.unknown(err):
	case m == absent:
		f.add(Warning, "enable CONFIG_CRYPTO_USER_API_SKCIPHER, or install the package with the rest of the kernel's modules",
			"the kernel has no algif_skcipher")
	default:
		f.ok("the kernel has it (algif_skcipher)")
	}
}

func keyring(n *Node, f *findings) {
	there, err := n.has("/proc/sys/kernel/keys")
	switch {
	case f.unknown(err):
	case !there:
		f.add(Error, "boot a kernel with CONFIG_KEYS", "the kernel has no keyring")
	default:
		f.ok("the kernel has one")
	}
}

func aes(n *Node, f *findings) {
	text, err := n.text("/proc/cpuinfo")
	if f.unknown(err) {
		return
	}
	for line := range strings.Lines(text) {
		key, flags, _ := strings.Cut(line, ":")
		if key = strings.TrimSpace(key); (key == "flags" || key == "Features") && contains(flags, "aes") { // x86, ARM
			f.ok("the CPU has AES instructions")
			return
		}
	}
	// POWER and s390x have them and no flag for it; the kernel's driver tells.
	crypto, err := n.text("/proc/crypto")
	if f.unknown(err) {
		return
	}
	for line := range strings.Lines(crypto) {
		key, driver, _ := strings.Cut(line, ":")
		if strings.TrimSpace(key) == "driver" && strings.Contains(driver, "xts") && strings.Contains(driver, "aes") && !strings.Contains(driver, "generic") &&
			!strings.Contains(driver, "ecb(") {
			f.ok("AES runs on %s", strings.TrimSpace(driver))
			return
		}
	}
	f.add(Warning, "in a virtual machine: let the hypervisor pass the CPU's flags on (host model); otherwise expect some 200 MB/s per core",
		"the CPU shows no AES instructions")
}
