// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"math"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Trim tells the device below the file system that is mounted at path which blocks are unused, and returns how many bytes of them. EOPNOTSUPP: the device,
// or something on the way to it, takes no discards.
func Trim(path string) (int64, error) {
	f, err := open(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	const request = 0xc0185879 // FITRIM: _IOWR('X', 121, struct fstrim_range)
	r := struct{ start, length, least uint64 }{length: math.MaxUint64}
	err = control(f, func(fd int) error { return ioctl(fd, request, unsafe.Pointer(&r)) })
	if err != nil {
		return 0, fmt.Errorf("trim %s: %w", path, err)
	}
	return int64(r.length), nil
}
