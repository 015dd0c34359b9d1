// SPDX-License-Identifier: Apache-2.0

// Package blkid asks what a device holds, in a way that cannot take a device that fails for an empty one.
package blkid

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/sys/tool"
)

// Found is what blkid recognised, in its own words ("ext4", "crypto_LUKS", "gpt").
type Found struct {
	Type           string // of a file system, container or member of something
	PartitionTable string // of a partition table
	UUID           string // "" if it has none
	Label          string // "" if it has none
}

// String says what it is, for people.
func (f Found) String() string {
	switch {
	case f.Type != "" && f.PartitionTable != "":
		return f.Type + " and a " + f.PartitionTable + " partition table"
	case f.Type != "":
		return f.Type
	}
	return f.PartitionTable + " partition table"
}

// edge is how much of both ends must be readable before "nothing" is believed: all signatures that libblkid knows lie there.
const edge = 1 << 20

// Probe returns what the open device (or image file) holds, nil if there positively is nothing that blkid knows. It runs blkid on the very device
// that d has open, whatever its path leads to by now.
//
// blkid gives status 2 for "nothing found", and gives it too for a device that is missing or cannot be read. So 2 is believed only if both ends of
// the device can be read here, before and after, and show none of the signatures that matter most. Every other status but 0 is an error.
func Probe(ctx context.Context, d *sys.DirectFile) (*Found, error) {
	name := d.File().Name()
	if d.Size() <= 0 {
		return nil, fmt.Errorf("probe %s: it has no size", name)
	}
	path, err := tool.Find("blkid", "util-linux")
	if err != nil {
		return nil, fmt.Errorf("probe %s: %w", name, err)
	}
	if _, err := readEdges(d); err != nil {
		return nil, fmt.Errorf("probe %s: %w", name, err)
	}
	out, err := tool.Run(ctx, tool.Command{Path: path, Args: []string{"-p", "-o", "export", "/proc/self/fd/3"}, Files: []*os.File{d.File()}})
	var exit *tool.ExitError
	if errors.As(err, &exit) && exit.Code == 2 {
		if err := believe(d); err != nil {
			return nil, fmt.Errorf("probe %s: %w", name, err)
		}
		return nil, nil
	}
	if errors.As(err, &exit) && exit.Code == 8 {
		return nil, fmt.Errorf("probe %s: it carries signatures of several kinds: %w", name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("probe %s: %w", name, err)
	}
	f := parse(out)
	if f.Type == "" && f.PartitionTable == "" {
		return nil, fmt.Errorf("probe %s: blkid found something without a type: %.200q", name, out)
	}
	return &f, nil
}

// Path is Probe of the device or file at path.
func Path(ctx context.Context, path string) (*Found, error) {
	d, err := sys.OpenDirect(path, false)
	if err != nil {
		return nil, fmt.Errorf("probe: %w", err)
	}
	defer d.Close()
	return Probe(ctx, d)
}

func parse(out []byte) Found {
	var f Found
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch key {
		case "TYPE":
			f.Type = value
		case "PTTYPE":
			f.PartitionTable = value
		case "UUID":
			f.UUID = value
		case "LABEL":
			f.Label = strings.ReplaceAll(value, `\`, "") // it escapes what a shell would take
		}
	}
	return f
}

func readEdges(d *sys.DirectFile) (head []byte, err error) {
	n := min(d.Size(), edge)
	head = make([]byte, n)
	if _, err := d.ReadAt(head, 0); err != nil {
		return nil, err
	}
	tail := make([]byte, n)
	if _, err := d.ReadAt(tail, d.Size()-n); err != nil {
		return nil, err
	}
	return head, nil
}

// believe looks whether there is nothing where blkid saw nothing.
func believe(d *sys.DirectFile) error {
	head, err := readEdges(d)
	if err != nil {
		return err
	}
	for _, s := range signatures {
		if len(head) >= s.offset+len(s.magic) && bytes.Equal(head[s.offset:s.offset+len(s.magic)], []byte(s.magic)) {
			return fmt.Errorf("blkid found nothing, but there is a signature of %s at %d", s.name, s.offset)
		}
	}
	// A device whose size changed under us is not one to format.
	if end, err := d.File().Seek(0, io.SeekEnd); err != nil || end != d.Size() {
		return errors.Join(fmt.Errorf("its size changed from %d to %d", d.Size(), end), err)
	}
	return nil
}

// signatures that are long enough not to appear in random bytes by chance; the two bytes of ext4 are not.
var signatures = []struct {
	name, magic string
	offset      int
}{
	{"LUKS", "LUKS\xba\xbe", 0},
	{"LUKS2 (second header)", "SKUL\xba\xbe", 0x4000}, {"LUKS2 (second header)", "SKUL\xba\xbe", 0x8000},
	{"LUKS2 (second header)", "SKUL\xba\xbe", 0x10000}, {"LUKS2 (second header)", "SKUL\xba\xbe", 0x20000},
	{"LUKS2 (second header)", "SKUL\xba\xbe", 0x40000}, {"LUKS2 (second header)", "SKUL\xba\xbe", 0x80000},
	{"xfs", "XFSB", 0}, {"btrfs", "_BHRfS_M", 0x10040}, {"LVM", "LABELONE", 512},
}
