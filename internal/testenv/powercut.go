// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// Recorder is a device whose writes the kernel logs (dm-log-writes) in the order in which they became durable, so that a test can see what a power cut
// after each of them leaves.
type Recorder struct {
	Path string // of the device

	name, log string
	first     []byte
}

// A Write is one durable write that was logged.
type Write struct {
	From, To int64  // bytes
	Flush    bool   // a flush came with it or, without bytes, was all there was: what the disk had got before is durable since then
	FUA      bool   // it is durable itself
	Mark     bool   // it is no write but a note that was made then
	Note     string // of the log, "" for a write
}

// Random returns numbers that VOLUKS_SEED makes again. The log says how, and returned with them is the seed.
func Random(t testing.TB) (*rand.Rand, uint64) {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("VOLUKS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d; again with VOLUKS_SEED=%d", seed, seed)
	return rand.New(rand.NewPCG(seed, 1)), seed
}

// PowerCuts is how many power cuts a test makes: as many as usual, or as VOLUKS_POWER_CUTS says.
func PowerCuts(t testing.TB, usual int) int {
	t.Helper()
	text := os.Getenv("VOLUKS_POWER_CUTS")
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// Logged is a write with what it wrote.
type Logged struct {
	Write
	Content []byte // from From to To; nil for a mark
}

// PowerOff fills disk with what one has after a cut in the last of these writes: everything from before the last flush; of what came later any part, each
// write whole, not at all, or torn between two sectors of so many bytes in either direction, as a disk with a cache of its own may. base is what it had at
// first. The memory is the caller's, since in a guest each fresh page takes long.
func PowerOff(disk []byte, random *rand.Rand, sector int, base []byte, writes []Logged) {
	copy(disk, base)
	durable := 0 // writes up to here
	for i, w := range writes {
		if w.Flush {
			durable = i
			if w.FUA || w.From == w.To {
				durable = i + 1
			}
		}
	}
	if durable == len(writes) && writes[durable-1].From < writes[durable-1].To {
		durable-- // the power goes while it is written
	}
	for i, w := range writes {
		was := disk[w.From:w.To]
		how := random.IntN(3)
		for at := 0; at < len(was); at += sector {
			kept := i < durable || how == 0 || how == 1 && random.IntN(2) == 0
			if kept {
				copy(was[at:], w.Content[at:min(at+sector, len(was))])
			}
		}
	}
}

// Record makes a device of first's size on extra disk 0, with that content, and logs to extra disk 1, which takes seven times as much. It calls Guest.
// first is the recorder's from then on: in a guest each fresh page of memory takes long.
func Record(t testing.TB, name string, first []byte) *Recorder {
	t.Helper()
	size := int64(len(first))
	data, log := Disk(t, 0, size), Disk(t, 1, 7*size)
	f, err := os.OpenFile(data, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(first, 0)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		t.Fatal(err)
	}
	r := &Recorder{name: name, log: log, first: first}
	r.Path = DM(t, name, fmt.Sprintf("0 %d log-writes %s %s", size/512, data, log))
	return r
}

// Mark puts a note into the log: what stands before it was durable when it was made.
func (r *Recorder) Mark(t testing.TB, note string) {
	t.Helper()
	dmsetup(t, "", "message", r.name, "0", "mark", note)
}

// After ends the recording and returns the content of the device when a mark was made, and what was written since then.
func (r *Recorder) After(t testing.TB, note string) (base []byte, writes []Logged) {
	t.Helper()
	const end = "dm-log-writes-end" // the kernel's own mark
	r.replay(t, func(w Write, content []byte) {
		if w.Note == end {
			return
		}
		if w.Note == "" || w.Mark && w.Note == note {
			copy(r.first[w.From:], content)
			return
		}
		writes = append(writes, Logged{w, content})
	})
	return r.first, writes
}

// Replay ends the recording and calls cut with the content of the device after each write and each note, and that write with the last note before it. The
// content is cut's to read only.
func (r *Recorder) Replay(t testing.TB, cut func(content []byte, w Write)) {
	t.Helper()
	r.replay(t, func(w Write, content []byte) {
		copy(r.first[w.From:], content)
		cut(r.first, w)
	})
}

// replay calls each with the writes in their order, and what was written: nothing for a note.
func (r *Recorder) replay(t testing.TB, each func(w Write, content []byte)) {
	t.Helper()
	dmsetup(t, "", "remove", "--noudevsync", r.name)
	f, err := os.Open(r.log)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read := func(off, n int64) []byte {
		b := make([]byte, n)
		if _, err := f.ReadAt(b, off); err != nil {
			t.Fatal(err)
		}
		return b
	}
	// The format is that of Linux' drivers/md/dm-log-writes.c: a super block, then entries of one sector, each with its data behind it.
	const (
		magic   = 0x6a736677736872
		flush   = 1
		fua     = 2
		discard = 4
		mark    = 8
	)
	u64 := func(b []byte, i int) int64 { return int64(binary.LittleEndian.Uint64(b[8*i:])) }
	super := read(0, 512)
	unit := int64(binary.LittleEndian.Uint32(super[24:]))
	if u64(super, 0) != magic || u64(super, 1) != 1 || unit < 512 {
		t.Fatalf("no log: %x", super[:32])
	}
	note, at := "", unit
	for range u64(super, 2) {
		entry := read(at, unit)
		sector, count, flags, length := u64(entry, 0), u64(entry, 1), u64(entry, 2), u64(entry, 3)
		at += unit
		var content []byte
		switch {
		case flags&mark != 0:
			note = string(bytes.TrimRight(entry[32:32+length], "\x00"))
		case flags&discard != 0:
			content = make([]byte, count*unit)
		default:
			content = read(at, count*unit)
			at += count * unit
		}
		each(Write{From: sector * unit, To: (sector + count) * unit, Flush: flags&(flush|fua) != 0, FUA: flags&fua != 0, Mark: flags&mark != 0, Note: note}, content)
	}
}
