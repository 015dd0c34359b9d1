// SPDX-License-Identifier: Apache-2.0

package filesystem

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/sys/blkid"
)

// Signature is what was recognised on a device.
type Signature struct {
	Type        string // blkid's name for it, for example "ext4", "crypto_LUKS" or "gpt partition table"
	UUID, Label string // empty if it has none
}

// Probe tells what is on a device; nil means positively nothing that blkid knows. A blkid that fails or finds several things, and a device that cannot be
// read, are errors. It says what the device looks like, not what it is: an image of another file system inside may be found first, and random bytes
// may look like something. Decisions need the volume's record too.
func Probe(ctx context.Context, dev string) (*Signature, error) {
	found, err := blkid.Path(ctx, dev)
	if err != nil || found == nil {
		return nil, err
	}
	return &Signature{Type: found.String(), UUID: found.UUID, Label: found.Label}, nil
}

// superblocks says where each type keeps its magic number and its UUID.
var superblocks = map[Type]struct {
	magic      string
	at, uuidAt int
}{
	Ext4:  {"\x53\xef", 1024 + 0x38, 1024 + 0x68},
	XFS:   {"XFSB", 0, 32},
	Btrfs: {"_BHRfS_M", 0x10040, 0x10020},
}

// checkDevice looks whether the superblock on the device is that of the file system that should be there, past the page cache. It looks for nothing
// else, so nothing else on the device can confuse it.
func checkDevice(dev string, t Type, uuid string) error {
	sb := superblocks[t]
	b, err := sys.ReadDirect(dev, 0, 0x11000)
	if err != nil {
		return err
	}
	if !bytes.Equal(b[sb.at:sb.at+len(sb.magic)], []byte(sb.magic)) {
		return &MismatchError{Device: dev, Field: "magic number of " + string(t), Got: hex.EncodeToString(b[sb.at : sb.at+len(sb.magic)]), Want: hex.EncodeToString([]byte(sb.magic))}
	}
	if got := formatUUID(b[sb.uuidAt : sb.uuidAt+16]); uuid != "" && got != uuid {
		return &MismatchError{Device: dev, Field: "UUID of " + string(t), Got: got, Want: uuid}
	}
	return nil
}

func formatUUID(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:16])
}
