// SPDX-License-Identifier: Apache-2.0

package header

import (
	"encoding/json"
	"maps"
	"slices"
)

const (
	maxSegments = 32
	maxDigests  = 8
)

// decode reads the JSON area of one copy.
func decode(area []byte) (*Header, error) {
	text, err := document(area)
	if err != nil {
		return nil, err
	}
	h := &Header{
		JSON:     text,
		Keyslots: map[int]Keyslot{}, Tokens: map[int]Token{}, Segments: map[int]Segment{}, Digests: map[int]Digest{},
	}
	d := &decoder{}
	root := d.node("metadata", text)
	root.each("keyslots", MaxKeyslots, func(id int, path string, raw json.RawMessage) {
		h.Keyslots[id] = d.keyslot(d.node(path, raw))
	})
	root.each("tokens", MaxTokens, func(id int, path string, raw json.RawMessage) {
		h.Tokens[id] = d.token(d.node(path, raw), raw)
	})
	root.each("segments", maxSegments, func(id int, path string, raw json.RawMessage) {
		h.Segments[id] = d.segment(d.node(path, raw))
	})
	root.each("digests", maxDigests, func(id int, path string, raw json.RawMessage) {
		h.Digests[id] = d.digest(d.node(path, raw))
	})
	h.Config = d.config(root.object("config"))
	root.done()
	h.references(d)
	if d.err != nil {
		return nil, d.err
	}
	slices.Sort(d.unknown)
	h.unknown = d.unknown
	return h, nil
}

func (d *decoder) keyslot(n *node) Keyslot {
	k := Keyslot{Type: n.text("type")}
	area := n.object("area")
	k.Area = Area{Type: area.text("type"), Offset: area.offset("offset"), Size: area.offset("size")}
	if k.Type != "luks2" {
		return k // e.g. "reencrypt"; its other members are not ours to read
	}
	k.Area.Encryption, k.Area.KeySize = area.text("encryption"), area.integer("key_size")
	k.KeySize = n.integer("key_size")
	if n.has("priority") {
		p := n.integer("priority")
		k.Priority = &p
	}
	af := n.object("af")
	k.AF = AF{Type: af.text("type"), Stripes: af.integer("stripes"), Hash: af.text("hash")}
	kdf := n.object("kdf")
	k.KDF = KDF{Type: kdf.text("type"), Salt: kdf.base64("salt")}
	switch k.KDF.Type {
	case "pbkdf2":
		k.KDF.Hash, k.KDF.Iterations = kdf.text("hash"), kdf.integer("iterations")
	case "argon2i", "argon2id":
		k.KDF.Time, k.KDF.Memory, k.KDF.CPUs = kdf.integer("time"), kdf.integer("memory"), kdf.integer("cpus")
	default:
		d.fail("%s.type %.40q is not known", kdf.path, k.KDF.Type)
	}
	return k
}

func (d *decoder) token(n *node, raw json.RawMessage) Token {
	return Token{Type: n.text("type"), Keyslots: n.ids("keyslots", MaxKeyslots), JSON: raw}
}

func (d *decoder) segment(n *node) Segment {
	s := Segment{Type: n.text("type"), Offset: n.offset("offset")}
	var size string
	if text(n.members["size"], &size); size == "dynamic" {
		s.Dynamic = true
		n.take("size")
	} else {
		s.Size = n.offset("size")
	}
	if n.has("flags") {
		s.Flags = n.texts("flags")
	}
	if s.Type == "crypt" {
		s.IVTweak = uint64(n.offset("iv_tweak"))
		s.Encryption, s.SectorSize = n.text("encryption"), n.integer("sector_size")
		if n.has("integrity") {
			s.Integrity = true
			n.take("integrity")
		}
	}
	n.done()
	return s
}

func (d *decoder) digest(n *node) Digest {
	g := Digest{Type: n.text("type"), Keyslots: n.ids("keyslots", MaxKeyslots), Segments: n.ids("segments", maxSegments)}
	if g.Type == "pbkdf2" {
		g.Hash, g.Iterations = n.text("hash"), n.integer("iterations")
		g.Salt, g.Digest = n.base64("salt"), n.base64("digest")
	}
	n.done()
	return g
}

func (d *decoder) config(n *node) Config {
	c := Config{JSONSize: n.offset("json_size"), KeyslotsSize: n.offset("keyslots_size")}
	if n.has("flags") {
		c.Flags = n.texts("flags")
	}
	if n.has("requirements") {
		r := n.object("requirements")
		if r.has("mandatory") {
			c.Requirements = r.texts("mandatory")
		}
		r.done()
	}
	n.done()
	return c
}

// references checks that tokens and digests name only slots and segments that exist, without which libcryptsetup takes a header for broken.
func (h *Header) references(d *decoder) {
	for _, id := range slices.Sorted(maps.Keys(h.Tokens)) {
		t := h.Tokens[id]
		for _, slot := range t.Keyslots {
			if _, ok := h.Keyslots[slot]; !ok {
				d.fail("token %d names key slot %d, which does not exist", id, slot)
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(h.Digests)) {
		g := h.Digests[id]
		for _, slot := range g.Keyslots {
			if _, ok := h.Keyslots[slot]; !ok {
				d.fail("digest %d names key slot %d, which does not exist", id, slot)
			}
		}
		for _, s := range g.Segments {
			if _, ok := h.Segments[s]; !ok {
				d.fail("digest %d names segment %d, which does not exist", id, s)
			}
		}
	}
}
