// SPDX-License-Identifier: Apache-2.0

package doctor

var dockerChecks = []Check{
	{"docker.socket", "Docker and Podman find the volume driver by this socket", dockerSocket},
	{"docker.plaintext", "what containers write to Docker's own volumes is on the disk in clear, whatever the driver of the others", plaintext},
}

func dockerSocket(n *Node, f *findings) {
	docker, err := n.first("/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd", "/run/docker.sock", "/usr/bin/podman")
	if f.unknown(err) {
		return
	}
	if docker == "" {
		f.note("neither Docker nor Podman is installed")
		return
	}
	socket := n.pluginSocket()
	listening, err := n.listening(socket)
	switch {
	case f.unknown(err):
	case !listening:
		f.add(Error, "systemctl enable --now voluks.socket", "nobody listens on %s", socket)
	case socket != "/run/docker/plugins/voluks.sock" && n.outside(socket) != "/run/docker/plugins/voluks.sock":
		f.add(Warning, "Docker looks in /run/docker/plugins alone: name another socket there in containers.conf, or take [docker] socket out of the configuration",
			"the agent listens on %s", socket)
	default:
		f.ok("the agent or systemd listens on %s", socket)
	}
}

func plaintext(n *Node, f *findings) {
	if n.Plaintext == nil {
		f.note("not asked")
		return
	}
	found, err := n.Plaintext()
	if f.unknown(err) {
		return
	}
	for _, sentence := range found {
		f.add(Warning, "give the container a named volume with driver: voluks, copy the data over (voluks volume migrate --help), and remove the local volume", "%s", sentence)
	}
	if len(found) == 0 {
		f.ok("Docker keeps no container's data on local volumes")
	}
}
