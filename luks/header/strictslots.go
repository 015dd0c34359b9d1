// SPDX-License-Identifier: Apache-2.0

package header

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Bounds for key slots of any maker. They only have to keep a forged header from costing an absurd amount of time or memory, or from crashing a reader
// that trusts it: cryptsetup's defaults are 2 s of work, at most 1 GiB and 4 threads, and its hard limit is 4 GiB.
const (
	minIterations = 1000
	maxIterations = 100_000_000
	minSalt       = 8
	maxSalt       = 64
	maxMemory     = 4 << 20 // KiB
	maxTime       = 100_000
	maxWork       = 256 << 20 // passes over memory, times KiB
	maxCPUs       = 16
	stripes       = 4000
	areaAlign     = 4096
)

var hashes = []string{"sha256", "sha512", "sha1", "sha224", "sha384", "sha3-256", "sha3-512"}

func (h *Header) strictKeyslots(c *checker, e Expect) {
	for id, k := range h.Keyslots {
		k.strict(c, fmt.Sprintf("keyslots.%d", id), e)
	}
	h.strictAreas(c, e)
}

func (k *Keyslot) strict(c *checker, path string, e Expect) {
	if c.check(k.Type == "luks2", path+".type", show(k.Type), `"luks2"`); k.Type != "luks2" {
		return
	}
	want(c, path+".key_size", k.KeySize, e.KeyBytes)
	if k.Priority != nil {
		between(c, path+".priority", *k.Priority, 0, 2)
	}
	want(c, path+".af.type", k.AF.Type, "luks1")
	want(c, path+".af.stripes", k.AF.Stripes, stripes)
	oneOf(c, path+".af.hash", k.AF.Hash, hashes...)
	want(c, path+".area.type", k.Area.Type, "raw")
	want(c, path+".area.encryption", k.Area.Encryption, DefaultCipher)
	oneOf(c, path+".area.key_size", k.Area.KeySize, 32, 64)
	k.KDF.strict(c, path+".kdf")
}

func (k *KDF) strict(c *checker, path string) {
	between(c, path+".salt length", len(k.Salt), minSalt, maxSalt)
	switch k.Type {
	case "pbkdf2":
		oneOf(c, path+".hash", k.Hash, hashes...)
		between(c, path+".iterations", k.Iterations, minIterations, maxIterations)
	case "argon2i", "argon2id":
		between(c, path+".time", k.Time, 1, maxTime)
		between(c, path+".memory", k.Memory, 32, maxMemory)
		between(c, path+".cpus", k.CPUs, 1, maxCPUs)
		if k.Time > 0 && k.Memory > 0 {
			c.check(k.Time <= maxWork/k.Memory, path, fmt.Sprintf("time %d with memory %d", k.Time, k.Memory), fmt.Sprintf("a product of at most %d", maxWork))
		}
	default:
		c.check(false, path+".type", show(k.Type), "pbkdf2, argon2i or argon2id")
	}
}

// strictAreas checks that the slots' areas lie between the header copies and the data, are large enough and do not share a byte.
func (h *Header) strictAreas(c *checker, e Expect) {
	low, high := 2*h.Size, min(2*h.Size+h.Config.KeyslotsSize, e.DataOffset, h.Space)
	ids := slices.SortedFunc(maps.Keys(h.Keyslots), func(a, b int) int {
		return cmp.Or(cmp.Compare(h.Keyslots[a].Area.Offset, h.Keyslots[b].Area.Offset), cmp.Compare(a, b))
	})
	end, before := int64(0), -1
	for _, id := range ids {
		a := h.Keyslots[id].Area
		path := fmt.Sprintf("keyslots.%d.area", id)
		inside := a.Offset >= low && a.Offset <= high && a.Size <= high-a.Offset
		c.check(inside, path, fmt.Sprintf("%d bytes at %d", a.Size, a.Offset), fmt.Sprintf("inside %d to %d", low, high))
		c.check(a.Offset%areaAlign == 0 && a.Size%areaAlign == 0, path, fmt.Sprintf("%d bytes at %d", a.Size, a.Offset), fmt.Sprintf("a multiple of %d", areaAlign))
		need := int64(e.KeyBytes) * stripes
		c.check(a.Size >= need, path+".size", fmt.Sprint(a.Size), fmt.Sprintf("at least %d", need))
		if !inside {
			continue
		}
		c.check(a.Offset >= end, path, fmt.Sprintf("%d bytes at %d", a.Size, a.Offset), fmt.Sprintf("no overlap with key slot %d", before))
		if a.Offset+a.Size > end {
			end, before = a.Offset+a.Size, id
		}
	}
}
