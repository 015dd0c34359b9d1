// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// cstring returns the bytes before the first zero byte.
func cstring(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// parseDMNames reads the answer of DM_LIST_DEVICES: struct dm_name_list {u64 dev; u32 next; char name[]}, next being relative, 0 at the end. An
// empty list is one entry with device 0.
func parseDMNames(b []byte) ([]uint64, error) {
	var devs []uint64
	for at := 0; ; {
		if at+12 > len(b) {
			if at == 0 && len(b) == 0 {
				return nil, nil
			}
			return nil, fmt.Errorf("list is cut off at %d", at)
		}
		dev := binary.NativeEndian.Uint64(b[at:])
		next := binary.NativeEndian.Uint32(b[at+8:])
		if dev != 0 {
			devs = append(devs, dev)
		}
		if next == 0 {
			return devs, nil
		}
		if next < 12 || next > uint32(len(b)) {
			return nil, fmt.Errorf("entry at %d points to %d of %d bytes", at, next, len(b))
		}
		at += int(next)
	}
}

// parseDMTargets reads the answer of DM_TABLE_STATUS: struct dm_target_spec {u64 start; u64 length; s32 status; u32 next; char type[16]} and after
// it the zero-terminated parameters. Here, unlike in the list of names, next is relative to the first one.
func parseDMTargets(b []byte, count uint32) ([]DMTarget, error) {
	const spec = 40
	var targets []DMTarget
	at := 0
	for range count {
		if at+spec > len(b) {
			return nil, fmt.Errorf("table is cut off: %d of %d targets", len(targets), count)
		}
		next := int(binary.NativeEndian.Uint32(b[at+20:]))
		end := bytes.IndexByte(b[at+spec:], 0)
		if end < 0 {
			return nil, fmt.Errorf("parameters of target %d are not terminated", len(targets))
		}
		t := DMTarget{
			Start: binary.NativeEndian.Uint64(b[at:]), Length: binary.NativeEndian.Uint64(b[at+8:]), Type: cstring(b[at+24 : at+40]),
		}
		t.Params = hideKeys(t.Type, b[at+spec:at+spec+end])
		targets = append(targets, t)
		if len(targets) < int(count) && (next <= at || next > len(b)) {
			return nil, fmt.Errorf("target %d points to %d of %d bytes", len(targets), next, len(b))
		}
		at = next
	}
	return targets, nil
}

// hideKeys returns params as a string in which every literal key is "-". The key never becomes part of a string. What the kernel shows of keys in
// its keyring (":64:logon:cryptsetup:...") is a name and stays.
func hideKeys(target string, params []byte) string {
	fields := bytes.Split(params, []byte(" "))
	switch target {
	case "crypt": // cipher KEY iv_offset device offset [options]
		if len(fields) > 1 && !bytes.HasPrefix(fields[1], []byte(":")) {
			fields[1] = []byte("-")
		}
	case "integrity": // options of the form internal_hash:ALGORITHM:KEY, also journal_crypt and journal_mac
		for i, f := range fields {
			if p := bytes.SplitN(f, []byte(":"), 3); len(p) == 3 {
				fields[i] = bytes.Join([][]byte{p[0], p[1], []byte("-")}, []byte(":"))
			}
		}
	}
	return string(bytes.Join(fields, []byte(" ")))
}
