// SPDX-License-Identifier: Apache-2.0

package headerbackup

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/luks/header"
)

func TestTakeAndOpen(t *testing.T) {
	n, v := newNode(t), newVolume(t, testUUID)
	before := v.bytes(t)
	leftover := filepath.Join(n.o.Dir, testUUID, "."+Name{Digest: "0123456789abcdef"}.String()+"1")
	must(t, os.MkdirAll(filepath.Dir(leftover), 0o700))
	must(t, os.WriteFile(leftover, []byte("half a backup"), 0o600))
	b := take(t, n, v)
	if _, err := os.Stat(leftover); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a crash left is still there: %v", err)
	}
	if !bytes.Equal(before, v.bytes(t)) {
		t.Error("taking a backup changed the volume")
	}
	h, err := v.Header()
	must(t, err)
	if b.UUID != testUUID || b.Name.Generation != 1 || b.Name.Epoch != h.Epoch || b.Name.Taken.IsZero() {
		t.Errorf("the backup is %+v, the header of epoch %d", b, h.Epoch)
	}
	path := filepath.Join(n.o.Dir, testUUID, b.Name.String())
	st, err := os.Stat(path)
	if err != nil || st.Mode() != 0o600 || st.Size() != b.Size || st.Size() > 1<<20 {
		t.Errorf("file: %v, %v", st, err)
	}
	i := openBackup(t, n, b)
	must(t, i.Header.Strict(v.expect()))
	if !bytes.Equal(i.Header.JSON, h.JSON) || !i.Taken.Equal(b.Name.Taken) {
		t.Errorf("taken %v: other metadata than on the device", i.Taken)
	}
	list, err := n.List(testUUID)
	if err != nil || len(list) != 1 || list[0].Name != b.Name || list[0].Size != b.Size || list[0].Copies[0].Verify() != nil {
		t.Errorf("list %+v: %v", list, err)
	}
	if uuids, err := n.Volumes(); err != nil || len(uuids) != 1 || uuids[0] != testUUID {
		t.Errorf("volumes %v: %v", uuids, err)
	}
}

// F36: what a destroyed slot left on the medium, and anything else that no slot owns, is in no backup.
func TestNothingUnused(t *testing.T) {
	n, v := newNode(t), newVolume(t, testUUID)
	h, err := v.Header()
	must(t, err)
	dead := h.Keyslots[31].Area
	v.rotate(t, 31, 29)
	mark := bytes.Repeat([]byte("left behind "), 1000)
	v.write(t, dead.Offset, mark)
	v.write(t, 12<<20, mark)
	b := take(t, n, v)
	content, err := os.ReadFile(b.Copies[0].Path)
	must(t, err)
	plain, err := recovery.Decrypt(bytes.NewReader(content), n.identities)
	must(t, err)
	raw := gunzip(t, plain)
	if len(raw) != 16<<20 {
		t.Errorf("%d bytes", len(raw))
	}
	if bytes.Contains(raw, mark[:24]) {
		t.Error("what is left of a destroyed slot is in the backup")
	}
	if len(bytes.Trim(raw[dead.Offset:][:dead.Size], "\x00")) != 0 {
		t.Error("the area of a destroyed slot is not zero")
	}
	live := v.bytes(t)
	for slot, k := range openBackup(t, n, b).Header.Keyslots {
		if !bytes.Equal(raw[k.Area.Offset:][:k.Area.Size], live[k.Area.Offset:][:k.Area.Size]) {
			t.Errorf("slot %d has other key material", slot)
		}
	}
}

func gunzip(t testing.TB, r io.Reader) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "gunzip")
	cmd.Stdin = r
	out, err := cmd.Output()
	must(t, err)
	return out
}

// A backup of a header with one damaged copy is whole.
func TestHalfDamaged(t *testing.T) {
	for which, at := range []int64{5000, 64<<10 + 5000} {
		n, v := newNode(t), newVolume(t, testUUID)
		v.write(t, at, []byte("scratch"))
		i := openBackup(t, n, take(t, n, v))
		if err := i.Header.Damage(); err != nil {
			t.Errorf("copy %d damaged: the backup is, too: %v", which+1, err)
		}
		h, err := v.Header()
		must(t, err)
		if h.Damage() == nil || !bytes.Equal(h.JSON, i.Header.JSON) {
			t.Errorf("copy %d: the damage was repaired, or the backup has other metadata", which+1)
		}
	}
}

func TestNotTaken(t *testing.T) {
	n, v := newNode(t), newVolume(t, testUUID)
	raw := v.bytes(t)
	fake := func(raw []byte) Opener {
		return (&memory{head: raw, size: 17 << 20}).open
	}
	for name, c := range map[string]struct {
		open Opener
		uuid string
		want error
	}{
		"another volume":    {v.open(), otherUUID, ErrOther},
		"no header":         {fake(make([]byte, 2<<20)), testUUID, header.ErrNotLUKS},
		"re-encryption":     {fake(reencrypting(t, raw)), testUUID, ErrReencrypting},
		"journal slot":      {fake(withJSON(t, raw, slotType("reencrypt"))), testUUID, ErrUnusual},
		"area in metadata":  {fake(withJSON(t, raw, slotArea("4096", "4096"))), testUUID, ErrUnusual},
		"area in data":      {fake(withJSON(t, raw, slotArea("16777216", "258048"))), testUUID, ErrUnusual},
		"area wraps":        {fake(withJSON(t, raw, slotArea("9223372036854771712", "258048"))), testUUID, ErrUnusual},
		"area beyond":       {fake(withJSON(t, raw, slotArea("131072", "99999997952"))), testUUID, ErrUnusual},
		"area not aligned":  {fake(withJSON(t, raw, slotArea("131073", "258048"))), testUUID, ErrUnusual},
		"huge slot area":    {fake(withJSON(t, raw, config("keyslots_size", "1073741824"))), testUUID, ErrUnusual},
		"data in the slots": {fake(withJSON(t, raw, segmentOffset("1048576"))), testUUID, ErrUnusual},
		"device fails":      {func(bool) (Device, error) { return nil, errPower }, testUUID, errPower},
	} {
		b, err := n.Take(c.open, c.uuid)
		if !errors.Is(err, c.want) || b != nil {
			t.Errorf("%s: %v, error %v, want %v", name, b, err, c.want)
		}
	}
	o := n.o
	o.Recipients = nil
	if _, err := New(o).Take(v.open(), testUUID); !errors.Is(err, recovery.ErrNoRecipient) {
		t.Errorf("nobody could open it: %v", err)
	}
	if list, err := n.List(testUUID); err != nil || len(list) != 0 {
		t.Errorf("something was taken: %v, %v", list, err)
	}
	if _, err := n.List("../../etc"); err == nil {
		t.Error("a path is taken for a UUID")
	}
}

func reencrypting(t testing.TB, raw []byte) []byte {
	return withJSON(t, raw, func(m map[string]any) {
		m["config"].(map[string]any)["requirements"] = map[string]any{"mandatory": []string{"online-reencrypt-v2"}}
	})
}

func slotOf(m map[string]any) map[string]any {
	return m["keyslots"].(map[string]any)["31"].(map[string]any)
}

func slotType(s string) func(map[string]any) {
	return func(m map[string]any) { slotOf(m)["type"] = s }
}

func slotArea(offset, size string) func(map[string]any) {
	return func(m map[string]any) {
		a := slotOf(m)["area"].(map[string]any)
		a["offset"], a["size"] = offset, size
	}
}

func config(name, value string) func(map[string]any) {
	return func(m map[string]any) { m["config"].(map[string]any)[name] = value }
}

func segmentOffset(value string) func(map[string]any) {
	return func(m map[string]any) { m["segments"].(map[string]any)["0"].(map[string]any)["offset"] = value }
}

// changing gives one content for the first reads and another one later, as if somebody wrote the header in between.
type changing struct {
	first, then io.ReaderAt
	reads       int
}

func (c *changing) ReadAt(p []byte, off int64) (int, error) {
	if c.reads--; c.reads >= 0 {
		return c.first.ReadAt(p, off)
	}
	return c.then.ReadAt(p, off)
}

// The metadata and the slots of a backup are of one moment.
func TestChangeWhileReading(t *testing.T) {
	v := newVolume(t, testUUID)
	old := v.bytes(t)
	v.rotate(t, 31, 29)
	v.rotate(t, 29, 31) // the same slot, another key, perhaps in the same area
	now := v.bytes(t)
	for reads := range 40 {
		c := &changing{first: bytes.NewReader(old), then: bytes.NewReader(now), reads: reads}
		i, _, err := capture(c, int64(len(now)))
		must(t, err)
		whole := now
		if c.reads >= 0 {
			whole = old
		}
		for slot, k := range i.Header.Keyslots {
			if !bytes.Equal(i.raw[k.Area.Offset:][:k.Area.Size], whole[k.Area.Offset:][:k.Area.Size]) {
				t.Fatalf("change after %d reads: slot %d is not of the moment of the metadata", reads, slot)
			}
		}
	}
}

func TestDamagedFiles(t *testing.T) {
	n, v := newNode(t), newVolume(t, testUUID)
	b := take(t, n, v)
	path := b.Copies[0].Path
	good, err := os.ReadFile(path)
	must(t, err)
	renamed := filepath.Join(t.TempDir(), "renamed")
	for _, at := range []int{0, 30, 150, 300, len(good) / 2, len(good) - 1} {
		bad := bytes.Clone(good)
		bad[at] ^= 4
		must(t, os.WriteFile(path, bad, 0o600))
		wantError(t, Copy{Path: path}.Verify(), ErrDamaged)
		if _, err := Open(path, n.identities); !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d: %v", at, err)
		}
		must(t, os.WriteFile(renamed, bad, 0o600))
		if i, err := Open(renamed, n.identities); err == nil || i != nil {
			t.Errorf("byte %d is wrong in a renamed file, and it was accepted", at)
		}
	}
	must(t, os.WriteFile(path, good[:len(good)-20], 0o600))
	wantError(t, Copy{Path: path}.Verify(), ErrDamaged)
	must(t, os.WriteFile(renamed, good, 0o600))
	if _, err := Open(renamed, n.identities); err != nil {
		t.Errorf("a renamed good file: %v", err)
	}
	_, err = Open(renamed, newNode(t).identities)
	wantError(t, err, recovery.ErrWrongIdentity)
	_, err = Open(path+"x", n.identities)
	wantError(t, err, ErrNone)
}

// Anybody can encrypt to a public recipient.
func TestForgedFiles(t *testing.T) {
	n, v := newNode(t), newVolume(t, testUUID)
	i := openBackup(t, n, take(t, n, v))
	forge := func(raw []byte, size int64) error {
		content, err := encode(&Image{Header: i.Header, raw: raw, size: size}, n.o.Now(), n.o.Recipients)
		must(t, err)
		path := filepath.Join(t.TempDir(), "forged")
		must(t, os.WriteFile(path, content, 0o600))
		_, err = Open(path, n.identities)
		return err
	}
	must(t, forge(i.raw, i.size))
	more := bytes.Clone(i.raw)
	more = append(more, make([]byte, 4096)...)
	more[len(more)-1] = 1
	for name, err := range map[string]error{
		"empty":           forge(nil, 0),
		"no header":       forge(make([]byte, 1<<20), 16<<20),
		"bytes besides":   forge(more, i.size),
		"too short":       forge(i.raw, i.size-4096),
		"bomb":            forge(i.raw, 1<<30),
		"one copy":        forge(append(bytes.Clone(i.raw[:64<<10]), make([]byte, 2<<20)...), i.size),
		"slot outside":    forge(withJSON(t, i.raw, slotArea("16777216", "258048")), i.size),
		"in reencryption": forge(reencrypting(t, i.raw), i.size),
	} {
		if !errors.Is(err, ErrUnreadable) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// The way back that needs no voluks, as the package comment gives it.
func TestStandardTools(t *testing.T) {
	for _, tool := range []string{"age", "gunzip", "cryptsetup"} {
		if _, err := exec.LookPath(tool); err != nil {
			testenv.Missing(t, "tools", err.Error())
		}
	}
	n, v := newNode(t), newVolume(t, testUUID)
	b := take(t, n, v)
	dir := t.TempDir()
	identity := filepath.Join(dir, "identity")
	must(t, os.WriteFile(identity, n.identity.Bytes(), 0o600))
	v.write(t, 0, make([]byte, 8<<20))
	script := `set -eu
age --decrypt --identity "$1" "$2" | gunzip > "$3/header"
cryptsetup luksHeaderRestore --batch-mode "$4" --header-backup-file "$3/header"`
	out, err := exec.CommandContext(t.Context(), "sh", "-c", script, "sh", identity, b.Copies[0].Path, dir, v.Path()).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !v.opens(31) || !v.opens(30) {
		t.Error("the restored header does not open")
	}
	if strings.Contains(string(out), "WARNING") {
		t.Log(string(out))
	}
}
