// SPDX-License-Identifier: Apache-2.0

package volume

// Spec is what a volume is asked to be. It is plain data, fixed at creation. ParseOptions makes one; a Spec made by hand is checked by Create.
type Spec struct {
	Name      string `json:"name"`                // of the volume
	Size      int64  `json:"size"`                // bytes that the file system gets; the header comes on top
	FS        string `json:"fs"`                  // ext4, xfs, btrfs
	Backing   string `json:"backing"`             // image, device, lvm
	Device    string `json:"device,omitempty"`    // of backing=device: its stable name
	VG        string `json:"vg,omitempty"`        // of backing=lvm: the volume group
	Pool      string `json:"pool,omitempty"`      // of backing=lvm: the thin pool; "": a thick volume
	UID       int    `json:"uid"`                 // owner of the directory that the container gets
	GID       int    `json:"gid"`                 // its group
	Mode      uint32 `json:"mode"`                // its permission bits, such as 0o755
	Mkfs      string `json:"mkfs,omitempty"`      // options for mkfs, as written
	Mount     string `json:"mount,omitempty"`     // options for mount, as written
	Alloc     string `json:"alloc"`               // full, sparse
	Discard   bool   `json:"discard,omitempty"`   // pass discards down to the backing
	Ephemeral bool   `json:"ephemeral,omitempty"` // key and content last as long as somebody holds it

	// GrownFrom is the size in bytes that the volume was made with, if it has grown since; a later create may still ask for that.
	GrownFrom int64 `json:"grown_from,omitempty"`

	// Given names the options that were written out, sorted. A later create is compared by these alone, so that a changed default of the
	// node does not make a difference.
	Given []string `json:"given,omitempty"`
}

// Defaults is what the node's configuration says about new volumes.
type Defaults struct {
	Size       int64  // bytes; [volumes] default_size
	FS         string // [volumes] default_fs
	Overcommit bool   // [volumes] overcommit: alternatives to alloc=full are allowed

	Workqueue string // [volumes] workqueue: WorkqueueOn, WorkqueueOff; "": by the kind of disk

	Devices      []string // [backing] devices: those that may become volumes
	VolumeGroups []string // [backing] volume_groups: those in which volumes may be made
}

// Whether dm-crypt puts requests into queues of its own.
const (
	WorkqueueOn  = "on"
	WorkqueueOff = "off"
)
