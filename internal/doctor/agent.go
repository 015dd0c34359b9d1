// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
)

var agentChecks = []Check{
	{"agent.running", "Docker and Podman reach volumes through the agent", agentRunning},
	{"agent.namespace", "what the agent mounts must reach the host, or containers get empty directories", agentNamespace},
	{"systemd.units", "after a reboot, containers whose volume driver is missing when Docker starts stay down for ever", units},
}

func agentRunning(n *Node, f *findings) {
	pid, err := n.agent()
	if f.unknown(err) {
		return
	}
	if pid != "" {
		f.ok("the agent runs (pid %s)", pid)
		return
	}
	listening, err := n.listening(n.pluginSocket())
	switch {
	case f.unknown(err):
	case listening:
		f.ok("the agent does not run; systemd starts it at the next call")
	default:
		f.add(Warning, "systemctl enable --now voluks.socket voluks.service", "the agent does not run, and nothing starts it when it is called")
	}
}

// pluginSocket is where the agent listens for Docker.
func (n *Node) pluginSocket() string {
	if cfg, err := n.config(); err == nil {
		return cfg.Docker.Socket
	}
	return n.Paths.DockerSocket()
}

// listening tells from the kernel's table whether somebody listens on a socket. Connecting would tell too, and start the agent.
func (n *Node) listening(path string) (bool, error) {
	text, err := n.text("/proc/net/unix")
	if err != nil {
		return false, err
	}
	const acceptsConnections = "00010000" // __SO_ACCEPTCON
	path = n.outside(path)
	for line := range strings.Lines(text) {
		// Num RefCount Protocol Flags Type St Inode Path; only the path may hold blanks.
		fields := strings.Fields(line)
		if len(fields) >= 8 && fields[3] == acceptsConnections && strings.HasSuffix(strings.TrimSuffix(line, "\n"), " "+path) {
			return true, nil
		}
	}
	return false, nil
}

// agentNamespace looks whether a mount made by the agent shows on the host. It does in the host's own namespace, and in another one if the
// directory of the mountpoints is in a peer group of the host there, as Docker arranges for a managed plugin.
func agentNamespace(n *Node, f *findings) {
	pid, err := n.agent()
	if f.unknown(err) {
		return
	}
	if pid == "" {
		f.ok("no agent runs")
		return
	}
	same, err := n.sameNamespace("mnt", pid, "1")
	if f.unknown(err) {
		return
	}
	if same {
		f.ok("the agent is in the host's mount namespace")
		return
	}
	theirs, err := n.mounts(pid)
	if f.unknown(err) {
		return
	}
	hosts, err := n.mounts("1")
	if f.unknown(err) {
		return
	}
	m, err := mountOf(theirs, n.outside(n.Paths.MountsDir()))
	if f.unknown(err) {
		return
	}
	if group := m.PeerGroup(); group != "" {
		for _, h := range hosts {
			if h.PeerGroup() == group {
				f.ok("the agent has a mount namespace of its own, and its mounts reach the host (%s)", m.Mountpoint)
				return
			}
		}
	}
	if n.managed(pid) {
		f.add(Error, "docker plugin disable -f, and enable again; if that is not enough: mount --make-shared $(findmnt -n -o TARGET -T "+quote(n.outside(n.Paths.State))+")",
			"what the managed plugin mounts does not reach the host")
		return
	}
	f.add(Error, "take settings such as PrivateTmp=, ProtectSystem= or BindPaths= out of voluks.service: systemctl cat voluks.service",
		"the agent is in a mount namespace of its own, and its mounts do not reach the host")
}

// managed tells whether that agent is a managed plugin of Docker.
func (n *Node) managed(pid string) bool {
	text, err := n.text("/proc/" + pid + "/cmdline")
	return err == nil && slices.Contains(strings.Split(text, "\x00"), "--managed-plugin")
}

// units looks whether systemd starts the socket at boot.
func units(n *Node, f *findings) {
	booted, err := n.has("/run/systemd/system")
	if f.unknown(err) {
		return
	}
	if !booted {
		f.note("this node does not run systemd: see to it that the agent starts before Docker")
		return
	}
	if pid, err := n.agent(); err == nil && pid != "" && n.managed(pid) {
		f.note("the agent is a managed plugin, which Docker starts; nothing makes Docker wait for a key that comes late")
		return
	}
	for _, unit := range []struct{ name, wantedBy string }{{"voluks.socket", "sockets.target"}, {"voluks.service", "multi-user.target"}, {"voluks-gate.service", "docker.service"}} {
		path, err := n.first("/etc/systemd/system/"+unit.name, "/run/systemd/system/"+unit.name, "/usr/local/lib/systemd/system/"+unit.name,
			"/usr/lib/systemd/system/"+unit.name, "/lib/systemd/system/"+unit.name)
		if f.unknown(err) {
			return
		}
		if path == "" {
			f.add(Warning, "voluks systemd install", "the unit %s is not installed", unit.name)
			continue
		}
		if target, err := os.Readlink(n.at(path)); err == nil && target == "/dev/null" {
			f.add(Warning, "systemctl unmask "+unit.name, "the unit %s is masked", unit.name)
			continue
		}
		_, err = os.Lstat(n.at("/etc/systemd/system/" + unit.wantedBy + ".wants/" + unit.name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
			f.add(Warning, "systemctl enable "+unit.name, "the unit %s is not enabled", unit.name)
		case f.unknown(err):
		default:
			f.ok("%s is enabled", unit.name)
		}
	}
}
