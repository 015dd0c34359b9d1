// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"bytes"
	"compress/gzip"
	_ "embed" // zeros
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/voluks/voluks/internal/recovery"
)

// maxFile bounds a file that is read: 32 slots and the cost of encryption.
const maxFile = 32 << 20

// ErrUnreadable means that a file is no backup of a header, or was damaged.
var ErrUnreadable = errors.New("not a readable header backup")

// encode returns the content of a backup file.
func encode(i *Image, taken time.Time, recipients []recovery.Recipient) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(len(i.raw) + 64<<10) // key material does not get smaller
	w, err := recovery.Encrypt(&out, recipients)
	if err != nil {
		return nil, err
	}
	if err := compress(w, i, taken); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

const unit = 1 << 20

// compress writes gzip. A header area is almost all zeros, at its end, and compressing those would take twenty times as long as the rest; gzip files can be
// put one behind the other, so a MiB of zeros that is compressed already is written many times.
func compress(w io.Writer, i *Image, taken time.Time) error {
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil {
		return err
	}
	z.Name, z.ModTime = i.Header.UUID+".luks2-header", taken
	if _, err := z.Write(i.raw); err != nil {
		return err
	}
	rest := i.size - int64(len(i.raw))
	blank := make([]byte, 16<<10)
	for left := rest % unit; left > 0; left -= min(left, int64(len(blank))) {
		if _, err := z.Write(blank[:min(left, int64(len(blank)))]); err != nil {
			return err
		}
	}
	if err := z.Close(); err != nil {
		return err
	}
	for range rest / unit {
		if _, err := w.Write(zeros); err != nil {
			return err
		}
	}
	return nil
}

// zeros is unit zeros, compressed. It is there ready-made since each worker takes one backup and would make it anew: head -c 1048576 /dev/zero | gzip -9n
//
//go:embed zeros.gz
var zeros []byte

// decode is the inverse of encode. It trusts nothing: age says that the file is whole, not who made it.
func decode(file []byte, identities []recovery.Identity) (*Image, error) {
	plain, err := recovery.Decrypt(bytes.NewReader(file), identities)
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(plain)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	taken := z.ModTime
	raw, err := io.ReadAll(io.LimitReader(z, maxArea+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if len(raw) > maxArea {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrUnreadable, maxArea)
	}
	i, err := newImage(raw, int64(len(raw)))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreadable, err)
	}
	if err := i.onlySlots(); err != nil {
		return nil, err
	}
	i.raw, i.Taken = bytes.Clone(raw[:used(i.Header)]), taken.UTC()
	return i, nil
}

// onlySlots checks that nothing lies outside the metadata and the areas of the slots.
func (i *Image) onlySlots() error {
	rest := bytes.Clone(i.raw)
	clear(rest[:2*i.Header.Size])
	for _, k := range i.Header.Keyslots {
		clear(rest[k.Area.Offset:][:k.Area.Size])
	}
	if used := len(bytes.TrimRight(rest, "\x00")); used > 0 {
		return fmt.Errorf("%w: bytes outside all key slots, up to %d", ErrUnreadable, used)
	}
	return nil
}
