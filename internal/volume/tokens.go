// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"github.com/voluks/voluks/keyslot"
)

// slotInfos is what a header says about its key slots, for the record and for Info.
func slotInfos(s keyslot.Slots) []SlotInfo {
	var infos []SlotInfo
	for _, slot := range s.Slots {
		info := SlotInfo{Role: slot.Kind, Number: slot.Number}
		if slot.Managed {
			info.Role, info.Generation, info.Created = slot.Role, slot.Generation, slot.Created.UTC()
			info.Recipients = slot.Recipients
		}
		if slot.KEK.Provider != "" {
			info.KEK = slot.KEK.Provider + ":" + slot.KEK.ID
		}
		infos = append(infos, info)
	}
	return infos
}

// volumeToken is what the header of a complete volume says about it, so that a lost record can be made again.
func volumeToken(r *record) keyslot.VolumeToken {
	return keyslot.VolumeToken{Name: r.Name, FS: r.Spec.FS, FSUUID: r.FSUUID, Options: r.Spec.options()}
}
