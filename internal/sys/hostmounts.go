// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// outletName is what Docker calls the directory on the host that it shows a managed plugin as the plugin's propagated mount, and where it looks for
// the paths that the plugin gives out.
const outletName = "propagated-mount"

// HostDir is a directory of the host in which a managed plugin of Docker mounts. Its methods may be called at the same time.
type HostDir struct {
	dir, outlet string
	mu          sync.Mutex
}

// JoinHost makes dir of the host this process's dir too, for a managed plugin: what is mounted below it on either side from now on shows on both, and
// in Docker's directory for the plugin's mounts. dir must exist, and be the propagated mount of the plugin's config.json.
//
// Docker takes its own directory apart when the plugin is disabled or upgraded. It gets a slave of the host's dir, so that what is unmounted there
// stays mounted here and for the containers.
//
// Its steps: what is in Docker's directory goes (it is made anew below), the directory becomes private, it shows dir, that becomes a slave, and this
// process gets a view of its own, which ends with it. A crash after any of them leaves containers with what they have, since theirs are mounts of their
// own, and Docker starts the plugin again, which begins with the first step.
func JoinHost(dir string) (*HostDir, error) {
	h := &HostDir{dir: dir}
	ours, err := MountInfoOf("self")
	if err != nil {
		return nil, err
	}
	tree := -1
	err = inHost(func(hosts []MountInfo) error {
		if h.outlet, err = outletOf(hosts, ours, dir); err != nil {
			return err
		}
		if err := h.fill(hosts); err != nil {
			return err
		}
		// A copy that is attached nowhere yet.
		tree, err = unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("share %s with the host: %w", dir, err)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, fmt.Errorf("share %s with the host: show it here: %w", dir, err)
	}
	if ours, err = MountInfoOf("self"); err != nil {
		return nil, err
	}
	for _, m := range slices.Backward(ours) {
		if m.Mountpoint == dir { // the last one is on top
			if m.PeerGroup() == "" {
				return nil, fmt.Errorf("share %s with the host: the host's mount that it lies on is private, so nothing mounted there shows here; "+
					"on the host: mount --make-shared $(findmnt -n -o TARGET -T %[1]s)", dir)
			}
			return h, nil
		}
	}
	return nil, fmt.Errorf("share %s with the host: it does not show here", dir)
}

// Show sees to it that Docker finds what is mounted below the directory. Docker may have emptied its own directory since: when dockerd is restarted, the
// end of one life of a plugin overlaps the next.
func (h *HostDir) Show() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	hosts, err := MountInfoOf("1")
	if err != nil {
		return err
	}
	if slices.ContainsFunc(hosts, func(m MountInfo) bool { return h.shows(m) && m.PeerGroup() == "" && m.Master() != "" }) {
		return nil
	}
	if err := inHost(h.fill); err != nil {
		return fmt.Errorf("show %s to Docker: %w", h.dir, err)
	}
	return nil
}

// shows tells whether a mount of the host is one of ours on Docker's directory, and not that directory itself.
func (h *HostDir) shows(m MountInfo) bool {
	return m.Mountpoint == h.outlet && filepath.Base(m.Root) != outletName
}

// fill shows dir in Docker's directory for the plugin. It runs in the host's namespace.
func (h *HostDir) fill(hosts []MountInfo) error {
	docker := false
	for _, m := range hosts {
		docker = docker || m.Mountpoint == h.outlet && !h.shows(m)
		if !h.shows(m) {
			continue
		}
		// What an earlier life of the plugin left, if it crashed. A slave first, whatever it was: unmounting must not go on to dir.
		if err := Mount("", h.outlet, "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
			return err
		}
		if err := unix.Unmount(h.outlet, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("take an old view off %s: %w", h.outlet, err)
		}
	}
	if !docker {
		if err := Mount(h.outlet, h.outlet, "", MountBind, ""); err != nil {
			return err
		}
	}
	// Docker's mount is a peer of the one that it lies on. What is mounted on it must not show there too.
	if err := Mount("", h.outlet, "", MountPrivate, ""); err != nil {
		return err
	}
	if err := Mount(h.dir, h.outlet, "", MountBind|unix.MS_REC, ""); err != nil {
		return err
	}
	return Mount("", h.outlet, "", unix.MS_SLAVE|unix.MS_REC, "")
}

// outletOf finds the path on the host of what Docker mounted at dir here: a peer of what is there on the host, be it Docker's own mount or what an
// earlier life of the plugin left on it. The host's may be gone again, since the end of a plugin takes it away, the next one being there or not. The
// directory that it was tells then.
func outletOf(hosts, ours []MountInfo, dir string) (string, error) {
	for _, m := range ours {
		for _, h := range hosts {
			if m.Mountpoint == dir && m.PeerGroup() != "" && h.PeerGroup() == m.PeerGroup() && filepath.Base(h.Mountpoint) == outletName {
				return h.Mountpoint, nil
			}
		}
	}
	for _, m := range ours {
		if m.Mountpoint != dir || filepath.Base(m.Root) != outletName {
			continue
		}
		outlet, longest := "", -1
		for _, h := range hosts {
			rest, err := filepath.Rel(h.Root, m.Root)
			if err != nil || rest == ".." || strings.HasPrefix(rest, "../") || h.Major != m.Major || h.Minor != m.Minor {
				continue
			}
			// Of several mounts of the file system the nearest one is Docker's.
			if len(h.Root) > longest {
				outlet, longest = filepath.Join(h.Mountpoint, rest), len(h.Root)
			}
		}
		if outlet != "" {
			return outlet, nil
		}
	}
	return "", fmt.Errorf("it is not the propagated mount of a managed plugin")
}

// inHost runs fn in the mount namespace of process 1, with what is mounted there. The process must see the host's process ids.
func inHost(fn func(hosts []MountInfo) error) error {
	ns, err := open("/proc/1/ns/mnt", unix.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("find the host's mounts: %w", err)
	}
	defer ns.Close()
	hosts, err := MountInfoOf("1")
	if err != nil {
		return err
	}
	onOwnThread(func() {
		if err = enterMounts(ns); err == nil {
			err = fn(hosts)
		}
	})
	return err
}

// enterMounts brings the calling thread, which must end with what it does there, into a mount namespace.
func enterMounts(ns *os.File) error {
	// Threads share root and working directory, which setns would have to change for all of them.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("setns: %w", err)
	}
	return nil
}

// PeerGroup is the number of the group in which this mount passes on what is mounted below it, as mountinfo has it ("shared:7"); "" if it does not.
func (m MountInfo) PeerGroup() string { return m.tag("shared:") }

// Master is the number of the group from which this mount gets what is mounted below it; "" if from none.
func (m MountInfo) Master() string { return m.tag("master:") }

func (m MountInfo) tag(name string) string {
	for tag := range strings.FieldsSeq(m.Propagation) {
		if group, ok := strings.CutPrefix(tag, name); ok {
			return group
		}
	}
	return ""
}
