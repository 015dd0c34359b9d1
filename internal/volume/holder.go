// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"fmt"
	"time"
)

// HolderKind says who a holder is, which decides whether it can be found stale.
type HolderKind string

// The kinds of holders. Of those who share a volume only a HolderDocker ever goes stale by itself: Docker never sends Unmount for a container that died with a killed
// dockerd, while podman and the CLI are processes that end right after the call.
const (
	HolderDocker  HolderKind = "docker"
	HolderPodman  HolderKind = "podman"
	HolderCLI     HolderKind = "cli"
	HolderSystemd HolderKind = "systemd"
	// HolderMigrate keeps all others out. It goes stale when its process is gone.
	HolderMigrate HolderKind = "migrate"
)

// Holder is one user of a mounted volume. ID is whatever the user calls itself (Docker's mount ID, "cli"); it may contain any characters and
// may have 1 to 4096 bytes. PID, Start and Comm describe the process that asked (dockerd), zero where unknown.
type Holder struct {
	ID    string     `json:"id"`              // unique among the holders of a volume
	Kind  HolderKind `json:"kind"`            // who asked
	PID   int        `json:"pid,omitempty"`   // of who asked, if that says something
	Start uint64     `json:"start,omitempty"` // field 22 of /proc/PID/stat, in clock ticks since boot
	Comm  string     `json:"comm,omitempty"`  // its name
	Since time.Time  `json:"since"`           // set by Mount when zero
}

// String names the holder for a person: its kind and the first characters of its ID.
func (h Holder) String() string {
	id := h.ID
	if len(id) > 12 {
		id = id[:12]
	}
	return fmt.Sprintf("%s %q", h.Kind, id)
}
