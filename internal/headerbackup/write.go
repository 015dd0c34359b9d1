// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/voluks/voluks/luks/header"
)

// withEpoch returns the image with another epoch.
func (i *Image) withEpoch(epoch uint64) *Image {
	raw := bytes.Clone(i.raw)
	setEpoch(raw, i.Header.Size, epoch)
	return &Image{Header: i.Header, Taken: i.Taken, raw: raw, size: i.size}
}

// A span is a range of the header area.
type span struct{ from, to int64 }

// areas returns the slots' areas in ascending order. The strict check has seen that they do not overlap.
func (i *Image) areas() []span {
	var out []span
	for k := range maps.Values(i.Header.Keyslots) {
		out = append(out, span{k.Area.Offset, k.Area.Offset + k.Area.Size})
	}
	slices.SortFunc(out, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	return out
}

// write puts the image on the device in the order of the table in the package comment: the metadata that name a slot come after its key material is
// durable, and one copy of the metadata is good at every moment if one was before: good, 0 or 1, is written last.
func (s *Store) write(open Opener, i *Image, good int) (err error) {
	d, err := open(true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if d.Size() < i.size {
		return fmt.Errorf("%w: the device has %d bytes, less than its header area of %d", ErrUnusual, d.Size(), i.size)
	}
	copies := [2]span{{0, i.Header.Size}, {i.Header.Size, 2 * i.Header.Size}}
	for _, step := range []struct {
		name  string
		spans []span
	}{
		{"restore.areas", i.areas()},
		{"restore.other", copies[1-good : 2-good]},
		{"restore.good", copies[good : good+1]},
	} {
		for _, p := range step.spans {
			if _, err := d.WriteAt(i.raw[p.from:p.to], p.from); err != nil {
				return err
			}
		}
		if err := d.Sync(); err != nil {
			return err
		}
		s.o.Crash(step.name)
	}
	if err := zeroRest(d, i); err != nil {
		return err
	}
	s.o.Crash("restore.zeroed")
	return readBack(d, i)
}

// zeroRest clears what no slot owns: key material of slots that the restored header does not know.
func zeroRest(d Device, i *Image) error {
	from := 2 * i.Header.Size
	for _, a := range append(i.areas(), span{i.size, i.size}) {
		if err := zero(d, span{from, a.from}); err != nil {
			return err
		}
		from = a.to
	}
	return d.Sync()
}

// zero writes only where there is something else, or a sparse image would become a full one.
func zero(d Device, p span) error {
	const step = 256 << 10
	buf, zeros := make([]byte, step), make([]byte, step)
	for at := p.from; at < p.to; at += step {
		n := min(step, p.to-at)
		if err := readAt(d, buf[:n], at); err != nil {
			return err
		}
		if bytes.Equal(buf[:n], zeros[:n]) {
			continue
		}
		if _, err := d.WriteAt(zeros[:n], at); err != nil {
			return err
		}
	}
	return nil
}

// readBack compares the device with what was to be written.
func readBack(d Device, i *Image) error {
	h, err := header.Read(d, d.Size())
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if err := h.Damage(); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	got := make([]byte, len(i.raw))
	if err := readAt(d, got, 0); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if !bytes.Equal(got, i.raw) {
		return errors.New("read back: the device does not have what was written")
	}
	return nil
}
