// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// An open that waits is given up, and its file is closed if it comes after all: the reader of a FIFO sees the end of its writers.
func TestOpenInTime(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	if f, err := openInTime(fifo, unix.O_WRONLY, 10*time.Millisecond); !errors.Is(err, errLoopHangs) {
		t.Fatalf("%v, %v", f, err)
	}
	reader, err := open(fifo, unix.O_RDONLY, 0) // waits for the writer that was given up
	must(t, err)
	defer reader.Close()
	if n, err := reader.Read(make([]byte, 1)); n != 0 {
		t.Errorf("read %d bytes, %v", n, err)
	}
	f, err := openInTime(fifo, unix.O_WRONLY, time.Minute)
	must(t, err)
	must(t, f.Close())
}
