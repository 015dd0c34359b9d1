// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrMemlock means that the process may not lock (more) memory.
var ErrMemlock = errors.New("locked memory limit reached (RLIMIT_MEMLOCK): raise it with LimitMEMLOCK= in the unit, --ulimit memlock= for a container, " +
	"ulimit -l in a shell, or grant CAP_IPC_LOCK")

// LockedAlloc returns n zero bytes that are never swapped, dumped or inherited: private pages outside the Go heap with mlock, MADV_DONTDUMP and
// MADV_WIPEONFORK (Linux 4.14). n must be positive. The slice's capacity is the mapping's size, which LockedFree needs. Errors wrap ErrMemlock if
// it is the limit that stands in the way.
func LockedAlloc(n int) ([]byte, error) {
	if n <= 0 || n > 1<<30 {
		return nil, fmt.Errorf("allocate locked memory: %d bytes is no useful size", n)
	}
	page := os.Getpagesize()
	size := (n + page - 1) / page * page
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("allocate %d bytes of locked memory: map: %w", size, err)
	}
	if err := protect(b); err != nil {
		return nil, errors.Join(fmt.Errorf("allocate %d bytes of locked memory: %w", size, err), unix.Munmap(b))
	}
	return b[:n], nil
}

func protect(b []byte) error {
	// Order: nothing secret is in there yet, but no page may ever be both filled and unprotected.
	if err := unix.Madvise(b, unix.MADV_DONTDUMP); err != nil {
		return fmt.Errorf("keep out of core dumps: %w", err)
	}
	if err := unix.Madvise(b, unix.MADV_WIPEONFORK); err != nil {
		return fmt.Errorf("keep from children: %w", err)
	}
	if err := unix.Mlock(b); err != nil {
		// mlock(2): ENOMEM and EAGAIN when over the limit, EPERM when the limit is zero.
		if errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EAGAIN) {
			return fmt.Errorf("lock: %w: %w", err, ErrMemlock)
		}
		return fmt.Errorf("lock: %w", err)
	}
	return nil
}

// LockedFree zeroes b, which came from LockedAlloc, and unmaps it: a later access to it faults. It must not be called twice for one slice.
func LockedFree(b []byte) error {
	b = b[:cap(b)]
	clear(b)
	if err := unix.Munmap(b); err != nil {
		return fmt.Errorf("free locked memory: %w", err)
	}
	return nil
}
