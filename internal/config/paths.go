// SPDX-License-Identifier: Apache-2.0

package config

import "path/filepath"

// Paths are the directories that voluks keeps things in. Every file of voluks hangs from one of
// them, so that a test, or a second instance, is moved as a whole.
type Paths struct {
	// Config holds config.toml and, for the file provider, master.key.
	Config string
	// State holds what must survive a boot: volumes, tombstones, mountpoints.
	State string
	// Run holds what must not: holders, locks, sockets.
	Run string
}

// DefaultPaths are the directories of an installed voluks.
func DefaultPaths() Paths { return PathsUnder("/") }

// PathsUnder is DefaultPaths below root.
func PathsUnder(root string) Paths {
	return Paths{
		Config: filepath.Join(root, "etc/voluks"),
		State:  filepath.Join(root, "var/lib/voluks"),
		Run:    filepath.Join(root, "run/voluks"),
	}
}

// ConfigFile is the configuration.
func (p Paths) ConfigFile() string { return filepath.Join(p.Config, "config.toml") }

// MasterKey is where the file provider keeps its key unless the configuration says otherwise.
func (p Paths) MasterKey() string { return filepath.Join(p.Config, "master.key") }

// MasterCredential is where the credential provider keeps its encrypted key, likewise: where systemd
// looks for the credentials that a unit imports, under the name that the agent's unit imports.
func (p Paths) MasterCredential() string {
	return filepath.Join(filepath.Dir(p.Config), "credstore.encrypted", "voluks-kek")
}

// VolumesDir holds one directory per volume.
func (p Paths) VolumesDir() string { return filepath.Join(p.State, "volumes") }

// VolumeDir holds the record of a volume and, for an image, its ciphertext. The name must have been
// checked by the caller: it becomes part of the path as it is. The same goes for the methods below.
func (p Paths) VolumeDir(name string) string { return filepath.Join(p.VolumesDir(), name) }

// RemovedDir holds the tombstones, by UUID.
func (p Paths) RemovedDir() string { return filepath.Join(p.State, "removed") }

// MountsDir holds the mountpoints.
func (p Paths) MountsDir() string { return filepath.Join(p.State, "mnt") }

// Mount is the mountpoint of a volume.
func (p Paths) Mount(name string) string { return filepath.Join(p.MountsDir(), name) }

// HoldersDir holds one directory of holders per volume.
func (p Paths) HoldersDir() string { return filepath.Join(p.Run, "holders") }

// Holders is the directory of the holders of a volume.
func (p Paths) Holders(name string) string { return filepath.Join(p.HoldersDir(), name) }

// LockedDir holds a note for each volume whose key could not be had, by UUID.
func (p Paths) LockedDir() string { return filepath.Join(p.Run, "locked") }

// Lock is the lock file of a volume. It is made once and never unlinked.
func (p Paths) Lock(name string) string { return filepath.Join(p.Run, "locks", name+".lock") }

// NodeLock is the lock file of what concerns the whole node, such as the reservation of space. It
// lies outside the directory of Lock, where a volume could be called "node".
func (p Paths) NodeLock() string { return filepath.Join(p.Run, "node.lock") }

// Lane is a lock that volumes take turns with at boot. The unit of volumes has the path too.
func (p Paths) Lane(number string) string { return filepath.Join(p.Run, "lane."+number) }

// AgentLock is held by the one running agent.
func (p Paths) AgentLock() string { return filepath.Join(p.Run, "agent.lock") }

// DockerSocket is where Docker looks for the plugin, unless the configuration says otherwise.
func (p Paths) DockerSocket() string {
	return filepath.Join(filepath.Dir(p.Run), "docker/plugins/voluks.sock")
}
