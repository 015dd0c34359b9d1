// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks/header"
)

// A container's life as far as it needs no kernel, with what other programs say of each step.
func TestLife(t *testing.T) {
	first, second := randomKey(t), randomKey(t)
	c := formatted(t, first)

	h := mustHeader(t, c)
	if h.UUID != testUUID || h.Label != "db" || h.Subsystem != "voluks" || h.Size != 64<<10 || h.Segments[0].Offset != 16<<20 || h.Segments[0].SectorSize != 4096 {
		t.Errorf("header: %+v", h)
	}
	must(t, h.Strict(header.Expect{UUID: testUUID, SectorSize: 4096}))
	if len(h.Keyslots) != 1 || !KDFRandomKey.made(h.Keyslots[agent]) || h.Digests[0].Iterations != 1000 {
		t.Errorf("slots: %+v, digests: %+v", h.Keyslots, h.Digests)
	}
	if out := mustCLI(t, nil, "luksUUID", c.Path()); out != testUUID {
		t.Errorf("cryptsetup says UUID %s", out)
	}

	must(t, c.TestSlot(agent, first))
	must(t, c.Witness(agent, first))
	mustCLI(t, first, "open", "--test-passphrase", "--key-file", "-", "--key-slot", "31", c.Path())

	must(t, c.AddSlot(Auth{agent, first}, recovery, second, KDFRandomKey))
	must(t, c.TestSlot(recovery, second))
	must(t, c.Witness(recovery, second))
	mustCLI(t, second, "open", "--test-passphrase", "--key-file", "-", "--key-slot", "30", c.Path())
	must(t, c.TestSlot(agent, first))

	id, err := c.SetToken(-1, []byte(`{"type":"voluks-agent","keyslots":["31"],"v":1}`))
	if err != nil || id != 0 {
		t.Fatalf("token %d, %v", id, err)
	}
	if id, err = c.SetToken(5, []byte(`{"type":"voluks-recovery","keyslots":["30"]}`)); err != nil || id != 5 {
		t.Fatalf("token %d, %v", id, err)
	}
	if id, err = c.SetToken(5, []byte(`{"type":"voluks-recovery","keyslots":["30"],"v":2}`)); err != nil || id != 5 {
		t.Fatalf("token %d, %v", id, err)
	}
	if h = mustHeader(t, c); string(h.Tokens[5].JSON) != `{"type":"voluks-recovery","keyslots":["30"],"v":2}` || h.Tokens[0].Keyslots[0] != agent {
		t.Errorf("tokens: %+v", h.Tokens)
	}
	if out := mustCLI(t, nil, "token", "export", "--token-id", "0", c.Path()); out != `{"type":"voluks-agent","keyslots":["31"],"v":1}` {
		t.Errorf("cryptsetup exports %s", out)
	}

	must(t, c.SetFlags(Flags{Discards: true, NoReadWorkqueue: true}))
	if h = mustHeader(t, c); fmt.Sprint(h.Config.Flags) != "[allow-discards no-read-workqueue]" {
		t.Errorf("flags: %v", h.Config.Flags)
	}
	must(t, c.SetFlags(Flags{}))
	if h = mustHeader(t, c); len(h.Config.Flags) != 0 {
		t.Errorf("flags: %v", h.Config.Flags)
	}
	must(t, h.Strict(header.Expect{}))

	must(t, c.KillSlot(recovery))
	wantError(t, c.TestSlot(recovery, second), ErrNoSlot)
	if h = mustHeader(t, c); len(h.Tokens[5].Keyslots) != 0 || len(h.Keyslots) != 1 {
		t.Errorf("after the slot is gone: %+v, %+v", h.Keyslots, h.Tokens)
	}
	must(t, c.RemoveToken(5))
	if h = mustHeader(t, c); len(h.Tokens) != 1 {
		t.Errorf("tokens: %+v", h.Tokens)
	}
	must(t, h.Damage())
	must(t, c.TestSlot(agent, first))

	s, err := c.Syncer()
	must(t, err)
	must(t, s.Sync())
	must(t, s.Close())
}

func TestVersion(t *testing.T) {
	v, err := Version()
	must(t, err)
	if out := mustCLI(t, nil, "--version"); !strings.HasPrefix(out, "cryptsetup "+v+" ") {
		t.Errorf("the library is %q, the program says %q", v, out)
	}
	if again, err := Version(); again != v || err != nil {
		t.Errorf("then %q, %v", again, err)
	}
}

// The last slot is forgotten: what is left is a header that nothing opens, and whose area of the key is other bytes.
func TestForgetTheLastSlot(t *testing.T) {
	key := randomKey(t)
	c := formatted(t, key)
	area := mustHeader(t, c).Keyslots[agent].Area
	read := func() []byte {
		t.Helper()
		b, err := sys.ReadDirect(c.Path(), area.Offset, int(area.Size))
		must(t, err)
		return b
	}
	before := read()
	wantError(t, c.KillSlot(agent), ErrLastSlot)
	must(t, c.Forget(agent))
	wantError(t, c.Forget(agent), ErrNoSlot)
	wantError(t, c.TestSlot(agent, key), ErrNoSlot)
	if h := mustHeader(t, c); len(h.Keyslots) != 0 || h.Damage() != nil {
		t.Errorf("header: %+v", h)
	}
	if _, err := cli(t, key, "open", "--test-passphrase", "--key-file", "-", c.Path()); err == nil {
		t.Error("cryptsetup still opens it")
	}
	for i, after := 0, read(); i < 4096; i += 16 {
		if bytes.Equal(before[i:i+16], after[i:i+16]) {
			t.Fatalf("the key's area is as it was at %d", i)
		}
	}
}
