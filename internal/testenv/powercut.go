// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"testing"
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

// Record makes a device of first's size on extra disk 0, with that content, and logs to extra disk 1, which takes seven times as much. It calls Guest.
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
	r := &Recorder{name: name, log: log, first: bytes.Clone(first)}
	r.Path = DM(t, name, fmt.Sprintf("0 %d log-writes %s %s", size/512, data, log))
	return r
}

// Mark puts a note into the log: what stands before it was durable when it was made.
func (r *Recorder) Mark(t testing.TB, note string) {
	t.Helper()
	dmsetup(t, "", "message", r.name, "0", "mark", note)
}

// Replay ends the recording and calls cut with the content of the device after each write and each note, and that write with the last note before it. The
// content is cut's to read only.
func (r *Recorder) Replay(t testing.TB, cut func(content []byte, w Write)) {
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
	now, note, at := r.first, "", unit
	for range u64(super, 2) {
		entry := read(at, unit)
		sector, count, flags, length := u64(entry, 0), u64(entry, 1), u64(entry, 2), u64(entry, 3)
		at += unit
		switch {
		case flags&mark != 0:
			note = string(bytes.TrimRight(entry[32:32+length], "\x00"))
		case flags&discard != 0:
			clear(now[sector*unit:][:count*unit])
		default:
			copy(now[sector*unit:], read(at, count*unit))
			at += count * unit
		}
		cut(now, Write{From: sector * unit, To: (sector + count) * unit, Flush: flags&(flush|fua) != 0, FUA: flags&fua != 0, Mark: flags&mark != 0, Note: note})
	}
}
