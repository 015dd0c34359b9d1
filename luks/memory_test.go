// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"bufio"
	"bytes"
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

// found returns the memory in which the first half of the key is, or any other half.
func (p pattern) found(t *testing.T) []string {
	t.Helper()
	half := p.masked[:len(p.masked)/2]
	var hits []string
	for _, r := range regions(t) {
		if r.from <= p.home && p.home < r.to {
			continue
		}
		for at := 0; ; at++ {
			next := bytes.IndexByte(r.data[at:], half[0]^mask)
			if next < 0 {
				break
			}
			if at += next; matches(r.data[at:], half) {
				hits = append(hits, fmt.Sprintf("%s at %#x", r.name, r.from+uintptr(at)))
			}
		}
		clear(r.data)
	}
	return hits
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
	data     []byte
}

// regions copies the writable memory of this process.
func regions(t *testing.T) func(func(int, region) bool) {
	t.Helper()
	maps, err := os.Open("/proc/self/maps")
	must(t, err)
	defer maps.Close()
	mem, err := os.Open("/proc/self/mem")
	must(t, err)
	var list []region
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var r region
		var perm string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &r.from, &r.to, &perm); err != nil {
			t.Fatal(err)
		}
		if f := strings.Fields(lines.Text()); len(f) > 5 {
			r.name = f[5]
		}
		if strings.HasPrefix(perm, "rw") && r.to-r.from < 1<<30 {
			list = append(list, r)
		}
	}
	buf := make([]byte, 0, 1<<20)
	return func(yield func(int, region) bool) {
		defer mem.Close()
		for i, r := range list {
			size := int(r.to - r.from)
			if cap(buf) < size {
				buf = make([]byte, 0, size)
			}
			// The buffer lies in one of the regions, and holds what was read before: it is cleared after each.
			n, _ := mem.ReadAt(buf[:size], int64(r.from))
			r.data = buf[:n]
			if !yield(i, r) {
				return
			}
		}
	}
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
