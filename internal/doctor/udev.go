// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

var udevChecks = []Check{
	{"udev.running", "opening and closing a volume waits until udev has handled the device, and for ever if udev is stopped", udevRunning},
	{"udev.rules", "without device-mapper's rules udev never says that it has handled the device, and opening hangs", udevRules},
	{"udev.ipc", "udev answers through semaphores of the host; a process in another IPC namespace never gets the answer", udevIPC},
	{"udev.cookies", "a semaphore that stays is an operation on a device that udev never finished", udevCookies},
}

// udevNames are what calls itself udev, in the 15 characters that the kernel keeps.
var udevNames = []string{"systemd-udevd", "(udev-worker)", "udevd", "eudev"}

const udevControl = "/run/udev/control"

func udevRunning(n *Node, f *findings) {
	there, err := n.has(udevControl)
	if f.unknown(err) {
		return
	}
	if !there {
		f.note("no udev runs; devices are made without it")
		return
	}
	pids, err := n.processes(udevNames...)
	if f.unknown(err) {
		return
	}
	for _, pid := range pids {
		status, err := n.text("/proc/" + pid + "/status")
		if err != nil {
			continue // it ended meanwhile
		}
		for line := range strings.Lines(status) {
			if key, state, _ := strings.Cut(line, ":"); key == "State" && strings.HasPrefix(strings.TrimSpace(state), "T") {
				f.add(Error, "kill -CONT "+pid, "udev (pid %s) is stopped", pid)
				return
			}
		}
	}
	if len(pids) == 0 {
		f.add(Error, "systemctl start systemd-udevd.service", "udev's socket %s is there, and no udev", udevControl)
		return
	}
	f.ok("udev runs")
}

func udevRules(n *Node, f *findings) {
	there, err := n.has(udevControl)
	if f.unknown(err) {
		return
	}
	if !there {
		f.ok("not needed: no udev runs")
		return
	}
	for _, dir := range []string{"/etc", "/run", "/usr/local/lib", "/usr/lib", "/lib"} {
		names, err := n.list(dir + "/udev/rules.d")
		if f.unknown(err) {
			return
		}
		for _, name := range names {
			if strings.HasSuffix(name, "-dm.rules") {
				f.ok("%s/udev/rules.d/%s", dir, name)
				return
			}
		}
	}
	f.add(Error, "install device-mapper's rules: apt install dmsetup", "udev runs without the rules of device-mapper (55-dm.rules)")
}

func udevIPC(n *Node, f *findings) {
	agent, err := n.agent()
	if f.unknown(err) {
		return
	}
	for _, p := range []struct{ name, pid string }{{"this process", n.self()}, {"the agent", agent}} {
		if p.pid == "" {
			continue
		}
		same, err := n.sameNamespace("ipc", p.pid, "1")
		switch {
		case f.unknown(err):
		case same:
			f.ok("%s is in the host's IPC namespace", p.name)
		default:
			f.add(Error, "use the host's: PrivateIPC=no for a service, --ipc=host for a container, \"ipchost\": true for a managed plugin",
				"%s is in an IPC namespace of its own", p.name)
		}
	}
}

// udevCookies looks for semaphores of device-mapper (their keys begin with 0x0D4D) that are older than any operation takes.
func udevCookies(n *Node, f *findings) {
	const magic, old = 0x0d4d, 5 * time.Minute
	text, err := n.text("/proc/sysvipc/sem")
	if f.unknown(err) {
		return
	}
	left := 0
	for line := range strings.Lines(text) {
		// key semid perms nsems uid gid cuid cgid otime ctime
		fields := strings.Fields(line)
		if len(fields) < 10 {
			continue
		}
		key, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil || uint32(key)>>16 != magic {
			continue
		}
		changed, err := strconv.ParseInt(fields[9], 10, 64)
		if f.unknown(wrap("the time of a semaphore", err)) {
			return
		}
		if n.now().Sub(time.Unix(changed, 0)) > old {
			left++
		}
	}
	if left > 0 {
		f.add(Warning, "see whose they are: dmsetup udevcookies; when no operation is under way: dmsetup udevcomplete_all 5",
			"semaphores of device-mapper that are more than 5 minutes old: %d", left)
		return
	}
	f.ok("no semaphore of device-mapper is left over")
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}
