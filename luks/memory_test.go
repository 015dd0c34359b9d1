// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/luks/internal/cryptsetup"
)

// A pattern is a key to look for, kept in a form that is not found itself.
type pattern struct {
	masked []byte
	home   uintptr // address of the key's own memory, which does not count
}

const mask = 0xa7

func patternOf(k *secret.Key) pattern {
	p := pattern{home: uintptr(unsafe.Pointer(unsafe.SliceData(k.Bytes())))}
	for _, b := range k.Bytes() {
		p.masked = append(p.masked, b^mask)
	}
	return p
}

// found tells where in the writable memory of this process the first half of the key is.
func (p pattern) found(t *testing.T) []string {
	t.Helper()
	half := p.masked[:len(p.masked)/2]
	mem, err := os.Open("/proc/self/mem")
	must(t, err)
	defer mem.Close()
	var hits []string
	buf := make([]byte, 1<<20)
	for _, r := range regions(t) {
		if r.from <= p.home && p.home < r.to {
			continue
		}
		for at := r.from; at < r.to; at += uintptr(len(buf) - len(half)) {
			n, _ := mem.ReadAt(buf[:min(uintptr(len(buf)), r.to-at)], int64(at))
			for _, i := range find(buf[:n], half) {
				hits = append(hits, fmt.Sprintf("%s at %#x", r.name, at+uintptr(i)))
			}
			// The buffer is memory of this process too.
			clear(buf)
		}
	}
	return hits
}

func find(data, masked []byte) (at []int) {
	for from := 0; ; from++ {
		next := bytes.IndexByte(data[from:], masked[0]^mask)
		if next < 0 {
			return at
		}
		if from += next; matches(data[from:], masked) {
			at = append(at, from)
		}
	}
}

func matches(data, masked []byte) bool {
	if len(data) < len(masked) {
		return false
	}
	for i, b := range masked {
		if data[i]^mask != b {
			return false
		}
	}
	return true
}

type region struct {
	from, to uintptr
	name     string
}

// regions are the pages that this process has in writable mappings. Pages that were never touched are left out: looking at them would bring them into
// being, hundreds of megabytes of them, which the guest's kernel cannot bear (it is a process with one mapping for each).
func regions(t *testing.T) []region {
	t.Helper()
	b, err := os.ReadFile("/proc/self/maps")
	must(t, err)
	pages, err := os.Open("/proc/self/pagemap")
	must(t, err)
	defer pages.Close()
	var list []region
	for line := range strings.Lines(string(b)) {
		var r region
		var perm string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &r.from, &r.to, &perm); err != nil {
			t.Fatal(err)
		}
		if f := strings.Fields(line); len(f) > 5 {
			r.name = f[5]
		}
		if strings.HasPrefix(perm, "rw") {
			list = append(list, touched(t, pages, r)...)
		}
	}
	return list
}

// touched cuts a mapping down to runs of pages that exist, in memory or in swap; see pagemap in the kernel's documentation.
func touched(t *testing.T, pagemap *os.File, r region) []region {
	t.Helper()
	const present, swapped, entry = 1 << 63, 1 << 62, 8
	size := uintptr(os.Getpagesize())
	var list []region
	buf := make([]byte, 64<<10)
	for at := r.from; at < r.to; {
		n, err := pagemap.ReadAt(buf[:min(uintptr(len(buf)), (r.to-at)/size*entry)], int64(at/size*entry))
		must(t, err)
		for i := 0; i+entry <= n; i, at = i+entry, at+size {
			if binary.NativeEndian.Uint64(buf[i:])&(present|swapped) == 0 {
				continue
			}
			if last := len(list) - 1; last >= 0 && list[last].to == at {
				list[last].to += size
			} else {
				list = append(list, region{at, at + size, r.name})
			}
		}
	}
	return list
}

// F41: after all operations of libcryptsetup neither slot keys nor the volume key are anywhere in the process but in their own locked memory: not on the
// heaps, not on the stacks of the threads. (Witness is not among them; its comment says why.)
func TestNoKeyStaysInMemory(t *testing.T) {
	first, second, wrong := randomKey(t), randomKey(t), randomKey(t)
	c := formatted(t, first)
	must(t, c.AddSlot(Auth{agent, first}, recovery, second, KDFRandomKey))
	must(t, c.TestSlot(recovery, second))
	wantError(t, c.TestSlot(recovery, wrong), ErrWrongKey)

	volumeKey, err := secret.New(64)
	must(t, err)
	defer volumeKey.Wipe()
	must(t, c.load("get the volume key", nil, func(d *cryptsetup.Device) error { return d.VolumeKey(agent, first.Bytes(), volumeKey.Bytes()) }))

	// The control: a copy on either heap is found.
	heap := append([]byte(nil), first.Bytes()...)
	if hits := patternOf(first).found(t); len(hits) == 0 {
		t.Fatal("a key on the Go heap is not found: the search is blind")
	}
	clear(heap)

	for name, k := range map[string]*secret.Key{"first slot key": first, "second slot key": second, "wrong key": wrong, "volume key": volumeKey} {
		if hits := patternOf(k).found(t); len(hits) > 0 {
			t.Errorf("the %s is in memory: %s", name, strings.Join(hits, ", "))
		}
	}
}

// The field in which luks.go keeps the volume key is where wipeVolumeKey looks for it.
func TestWitnessWipesVolumeKey(t *testing.T) {
	key := randomKey(t)
	c := formatted(t, key)
	copied, _, err := c.copyForWitness("test", agent)
	must(t, err)
	defer copied.Close()
	v := unseal(t, copied, agent, key)
	if !wipeVolumeKey(v) {
		t.Fatal("luks.go keeps the volume key elsewhere than in the pinned version")
	}
	if fmt.Sprintf("%x", unexported(v, "key")) != strings.Repeat("00", 64) {
		t.Error("the volume key is still there")
	}
}
