// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"bytes"
	"context"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/luks/header"
)

// Helpers of the tests that need a kernel with device-mapper: go test -exec scripts/guest-small ./luks

// loop puts a file on a loop device until the end of the test.
func loop(t testing.TB, path string) sys.Loop {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	l, held, err := sys.LoopAttach(ctx, f, 4096)
	must(t, err)
	t.Cleanup(func() { must(t, held.Close()) })
	return l
}

// onLoop makes a container on a loop device of its own, and says where its bytes are.
func onLoop(t testing.TB, key *secret.Key) (c *Container, file string) {
	t.Helper()
	testenv.Guest(t)
	file = image(t)
	c = At(loop(t, file).Path)
	must(t, c.Format(params(key)))
	return c, file
}

func openParams(key *secret.Key) OpenParams {
	return OpenParams{Name: MappingName(testUUID), Slot: agent, Key: key, Expect: header.Expect{UUID: testUUID, SectorSize: 4096}}
}

// opened opens the container until the end of the test.
func opened(t testing.TB, c *Container, p OpenParams) string {
	t.Helper()
	must(t, c.Open(p))
	t.Cleanup(func() {
		if err := Close(p.Name); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return filepath.Join("/dev/mapper", p.Name)
}

func mapping(t testing.TB, name string) *sys.DMDevice {
	t.Helper()
	d, err := sys.DMByName(name)
	must(t, err)
	return d
}

func gone(t testing.TB, name string) {
	t.Helper()
	if d, err := sys.DMByName(name); err == nil {
		t.Errorf("a mapping is left behind: %+v", d)
		_ = Close(name)
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// forge replaces text in the metadata of both copies and makes the checksums right again, as somebody with access to the disk can.
func forge(t testing.TB, path, old, new string) {
	t.Helper()
	d, err := sys.OpenDirect(path, true)
	must(t, err)
	defer d.Close()
	for _, at := range []int64{0, header.DefaultMetadataSize} {
		b := make([]byte, header.DefaultMetadataSize)
		_, err := d.ReadAt(b, at)
		must(t, err)
		text, _, _ := bytes.Cut(b[4096:], []byte{0})
		if !bytes.Contains(text, []byte(old)) {
			t.Fatalf("%s is not in %s", old, text)
		}
		forged := bytes.ReplaceAll(text, []byte(old), []byte(new))
		clear(b[4096:])
		copy(b[4096:], forged)
		clear(b[448:512])
		sum := sha256.Sum256(b)
		copy(b[448:], sum[:])
		_, err = d.WriteAt(b, at)
		must(t, err)
	}
}
