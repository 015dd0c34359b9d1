// SPDX-License-Identifier: Apache-2.0

package cryptsetup

// #include "shim.h"
import "C"

import (
	"strings"

	upstream "github.com/martinjungblut/go-cryptsetup"
)

// FormatParams says how a new container looks.
type FormatParams struct {
	UUID, Label, Subsystem string // as the header shall have them
	Cipher                 string // for example "aes-xts-plain64"
	KeyBytes               int    // of the volume key, which the library makes at random
	SectorSize             int    // bytes
	MetadataSize           int64  // bytes of one copy
	DataOffset             int64  // bytes
	Digest                 PBKDF  // of the digest that proves the volume key
}

// Format overwrites everything before the data offset with a new header without slots. The volume key is in the handle until f returns: the first slot must
// be added on the same handle, or the key is lost.
func (d *Device) Format(p FormatParams) error {
	if err := result("crypt_set_metadata_size", int(C.crypt_set_metadata_size(d.cd, C.uint64_t(p.MetadataSize), 0))); err != nil {
		return err
	}
	if err := result("crypt_set_data_offset", int(C.crypt_set_data_offset(d.cd, C.uint64_t(p.DataOffset/512)))); err != nil {
		return err
	}
	cipher, mode, _ := strings.Cut(p.Cipher, "-")
	err := d.up.Format(upstream.LUKS2{
		SectorSize: uint32(p.SectorSize), Label: p.Label, Subsystem: p.Subsystem,
		PBKDFType: &upstream.PbkdfType{Type: p.Digest.Type, Hash: p.Digest.Hash, Iterations: p.Digest.Iterations, Flags: pbkdfNoBenchmark},
	}, upstream.GenericParams{Cipher: cipher, CipherMode: mode, UUID: p.UUID, VolumeKeySize: p.KeyBytes})
	return fromUpstream("crypt_format", err)
}
