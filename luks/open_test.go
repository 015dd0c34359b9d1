// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/luks/header"
)

// Open makes the mapping that was asked for, which others see too; Close removes it; what was written is there again after the next Open, and in
// clear nowhere.
func TestOpenClose(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	key := randomKey(t)
	c, file := onLoop(t, key)
	p := openParams(key)
	must(t, c.Open(p))

	d := mapping(t, p.Name)
	if want := "CRYPT-LUKS2-" + plainUUID + "-" + p.Name; d.UUID != want {
		t.Errorf("device-mapper UUID %s, want %s", d.UUID, want)
	}
	must(t, CheckTable(d, Table{UUID: testUUID, Name: p.Name, SectorSize: 4096, Length: dataSize}))
	status := mustCLI(t, nil, "status", p.Name)
	for _, want := range []string{"LUKS2", "aes-xts-plain64", "512 bits", "keyring", c.Path(), "offset: 32768 sectors"} {
		if !strings.Contains(strings.Join(strings.Fields(status), " "), want) {
			t.Errorf("%q is not in cryptsetup's status:\n%s", want, status)
		}
	}

	canary := bytes.Repeat([]byte("canary of the test "), 1000)
	overwrite(t, "/dev/mapper/"+p.Name, 1<<20, canary)
	run(t, "sync")
	must(t, Close(p.Name))
	gone(t, p.Name)
	wantError(t, Close(p.Name), ErrNotActive)
	if b, err := os.ReadFile(file); err != nil || bytes.Contains(b, canary[:19]) {
		t.Error("plaintext in the container")
	}

	dev := opened(t, c, p)
	f, err := os.Open(dev)
	must(t, err)
	defer f.Close()
	got := make([]byte, len(canary))
	if _, err := f.ReadAt(got, 1<<20); err != nil || !bytes.Equal(got, canary) {
		t.Errorf("what was written is not there: %v", err)
	}
}

// The options of the mapping are those of the call, whatever the header says for others. F45
func TestOpenOptions(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	key := randomKey(t)
	c, _ := onLoop(t, key)
	must(t, c.SetFlags(Flags{Discards: true, NoWriteWorkqueue: true}))
	for _, want := range []Flags{{}, {Discards: true}, {NoReadWorkqueue: true, NoWriteWorkqueue: true}, {true, true, true}} {
		p := openParams(key)
		p.Discard, p.NoReadWorkqueue, p.NoWriteWorkqueue = want.Discards, want.NoReadWorkqueue, want.NoWriteWorkqueue
		must(t, c.Open(p))
		must(t, CheckTable(mapping(t, p.Name), Table{UUID: testUUID, Options: want}))
		must(t, Close(p.Name))
	}
	// Plain cryptsetup does as the header says, which is what the flags are for.
	mustCLI(t, key, "open", "--key-file", "-", "--key-slot", "31", c.Path(), "by-hand")
	defer func() { must(t, Close("by-hand")) }()
	must(t, CheckTable(mapping(t, "by-hand"), Table{UUID: testUUID, Options: Flags{Discards: true, NoWriteWorkqueue: true}}))
}

// F16, F28: a mapping that somebody made by hand passes the comparison only if it is as safe as ours, and is never opened a second time.
func TestOpenedByHand(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	key := randomKey(t)
	c, _ := onLoop(t, key)
	for args, field := range map[string]string{"": "", "--disable-keyring": "key", "--readonly": "mode", "--allow-discards": "options"} {
		arguments := append([]string{"open", "--key-file", "-", "--key-slot", "31", c.Path(), "by-hand"}, strings.Fields(args)...)
		mustCLI(t, key, arguments...)
		err := CheckTable(mapping(t, "by-hand"), Table{UUID: testUUID})
		var e *TableError
		if (field == "" && err != nil) || (field != "" && (!errors.As(err, &e) || e.Field != field)) {
			t.Errorf("%s: %v", args, err)
		}
		if strings.Contains(fmt.Sprint(err), "0123456789abcdef") {
			t.Error(err)
		}
		wantError(t, c.Open(openParams(key)), ErrBusy)
		gone(t, MappingName(testUUID))
		wantError(t, c.Format(params(key)), ErrBusy)
		must(t, Close("by-hand"))
	}
	must(t, c.TestSlot(agent, key))
}

func TestOpenErrors(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	key, wrong := randomKey(t), randomKey(t)
	c, file := onLoop(t, key)
	with := func(f func(*OpenParams)) OpenParams { p := openParams(key); f(&p); return p }
	tests := map[string]struct {
		c    *Container
		p    OpenParams
		want error
	}{
		"wrong key":   {c, with(func(p *OpenParams) { p.Key = wrong }), ErrWrongKey},
		"no slot":     {c, with(func(p *OpenParams) { p.Slot = 4 }), ErrNoSlot},
		"any slot":    {c, with(func(p *OpenParams) { p.Slot = -1 }), ErrNoSlot},
		"no key":      {c, with(func(p *OpenParams) { p.Key = nil }), ErrKeyLength},
		"no name":     {c, with(func(p *OpenParams) { p.Name = "" }), nil},
		"long name":   {c, with(func(p *OpenParams) { p.Name = strings.Repeat("x", 200) }), nil},
		"no UUID":     {c, with(func(p *OpenParams) { p.Expect.UUID = "" }), nil},
		"other UUID":  {c, with(func(p *OpenParams) { p.Expect.UUID = "1" + testUUID[1:] }), nil},
		"file":        {At(file), openParams(key), nil},
		"missing":     {At("/dev/loop-of-nobody"), openParams(key), os.ErrNotExist},
		"no such dir": {c, with(func(p *OpenParams) { p.Name = "a/b" }), nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			err := test.c.Open(test.p)
			if err == nil || test.want != nil && !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			gone(t, MappingName(testUUID))
		})
	}

	opened(t, c, openParams(key))
	err := c.Open(openParams(key))
	wantError(t, err, ErrActive)
	wantError(t, err, syscall.EEXIST)
	wantError(t, c.Open(with(func(p *OpenParams) { p.Name = "another" })), ErrBusy)
	gone(t, "another")
}

// Close leaves alone what is in use, and what is not a LUKS2 mapping.
func TestCloseRefuses(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	key := randomKey(t)
	c, _ := onLoop(t, key)
	dev := opened(t, c, openParams(key))
	name := MappingName(testUUID)

	f, err := os.Open(dev)
	must(t, err)
	err = Close(name)
	wantError(t, err, ErrBusy)
	wantError(t, err, syscall.EBUSY)
	must(t, f.Close())

	run(t, "mkfs.ext4", "-q", dev)
	dir := t.TempDir()
	must(t, syscall.Mount(dev, dir, "ext4", 0, ""))
	wantError(t, Close(name), ErrBusy)
	must(t, os.WriteFile(dir+"/still-there", nil, 0o600))
	must(t, syscall.Unmount(dir, 0))

	testenv.DM(t, "not-luks", "0 8 zero")
	if err := Close("not-luks"); err == nil || errors.Is(err, ErrNotActive) {
		t.Errorf("closed something else: %v", err)
	}
	mapping(t, "not-luks")
	mapping(t, name)
}

// F48: the header is replaced between the check and the use. Whatever libcryptsetup then does, no mapping that was not asked for stays.
func TestHeaderSwappedBeforeActivation(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	key := randomKey(t)
	tests := map[string]struct{ old, new, field string }{
		"null cipher":       {`"dynamic","iv_tweak":"0","encryption":"aes-xts-plain64"`, `"dynamic","iv_tweak":"0","encryption":"cipher_null-ecb"`, "cipher"},
		"other IV":          {`"dynamic","iv_tweak":"0","encryption":"aes-xts-plain64"`, `"dynamic","iv_tweak":"0","encryption":"aes-xts-plain"`, "cipher"},
		"shifted":           {`"offset":"16777216"`, `"offset":"16781312"`, "length"},
		"shifted and short": {`"offset":"16777216","size":"dynamic"`, `"offset":"16781312","size":"4194304"`, "length"},
		"sector size":       {`"sector_size":4096`, `"sector_size":512`, "options"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c, _ := onLoop(t, key)
			c.testOnlyBeforeActivation = func() { forge(t, c.Path(), test.old, test.new) }
			err := c.Open(openParams(key))
			var e *TableError
			if !errors.As(err, &e) || e.Field != test.field {
				t.Errorf("got %v, want a difference in %s", err, test.field)
			}
			gone(t, MappingName(testUUID))
		})
	}
	t.Run("other container", func(t *testing.T) {
		c, _ := onLoop(t, key)
		c.testOnlyBeforeActivation = func() {
			p := params(key)
			p.UUID = "1" + testUUID[1:]
			must(t, At(c.Path()).Format(p))
		}
		var e *TableError
		if err := c.Open(openParams(key)); !errors.As(err, &e) || e.Field != "device-mapper UUID" {
			t.Errorf("got %v", err)
		}
		gone(t, MappingName(testUUID))
	})
	// libcryptsetup itself does not heed these, so that the mapping is the one asked for.
	harmless := map[string]func(path string){
		"flags": func(path string) { must(t, At(path).SetFlags(Flags{Discards: true})) },
		"tweak": func(path string) { forge(t, path, `"iv_tweak":"0"`, `"iv_tweak":"8"`) },
		"short": func(path string) { forge(t, path, `"size":"dynamic"`, `"size":"4194304"`) },
	}
	for name, swap := range harmless {
		t.Run(name, func(t *testing.T) {
			c, _ := onLoop(t, key)
			c.testOnlyBeforeActivation = func() { swap(c.Path()) }
			p := openParams(key)
			opened(t, c, p)
			must(t, CheckTable(mapping(t, p.Name), Table{UUID: testUUID, Name: p.Name, SectorSize: 4096, Length: dataSize}))
		})
	}
}

// The comparison after activation bites: with another expectation the very mapping that Open makes is refused.
func TestVerifyAgainstKernel(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	key := randomKey(t)
	c, _ := onLoop(t, key)
	p := openParams(key)
	opened(t, c, p)
	good, err := c.plan("test", p)
	must(t, err)
	must(t, verify(p.Name, good))
	for field, change := range map[string]func(*Table){
		"name":               func(w *Table) { w.Name = "x" },
		"device-mapper UUID": func(w *Table) { w.UUID = "1" + testUUID[1:] },
		"cipher":             func(w *Table) { w.Cipher = "aes-xts-plain" },
		"key":                func(w *Table) { w.KeyBytes = 32 },
		"device":             func(w *Table) { w.Device.Minor++ },
		"offset":             func(w *Table) { w.DataOffset += 512 },
		"length":             func(w *Table) { w.Length += 512 },
		"options":            func(w *Table) { w.Options.Discards = true },
	} {
		bad := good
		change(&bad)
		var e *TableError
		if err := verify(p.Name, bad); !errors.As(err, &e) || e.Field != field {
			t.Errorf("got %v, want a difference in %s", err, field)
		}
	}
}

// After Open no keyring holds the volume key: that of the thread that activated would, as long as the thread lives.
func TestOpenLeavesNoKeyInKeyring(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	key := randomKey(t)
	c, _ := onLoop(t, key)
	opened(t, c, openParams(key))
	// The kernel frees what nobody has any more a moment later. /proc/keys lists the keys of all processes of this user.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		keys, err := os.ReadFile("/proc/keys")
		must(t, err)
		if !strings.Contains(string(keys), "cryptsetup:"+testUUID) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("in a keyring: %s", keys)
		}
	}
}

// A damaged copy is reported before the activation repairs it; with both damaged nothing is activated.
func TestOpenDamaged(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	key := randomKey(t)
	c, _ := onLoop(t, key)
	p := openParams(key)
	smash := func(at int64) {
		d, err := sys.OpenDirect(c.Path(), true)
		must(t, err)
		defer d.Close()
		_, err = d.WriteAt(make([]byte, 4096), at)
		must(t, err)
	}
	smash(4096)
	var reported error
	c.OnDamage(func(err error) {
		reported = err
		if mustHeader(t, c).Damage() == nil {
			t.Error("repaired before it was reported")
		}
	})
	must(t, c.Open(p))
	must(t, Close(p.Name))
	var damage *header.DamagedError
	if !errors.As(reported, &damage) || damage.Primary == nil || damage.Secondary != nil {
		t.Errorf("reported %v", reported)
	}
	must(t, mustHeader(t, c).Damage())

	smash(4096)
	smash(64<<10 + 4096)
	wantError(t, c.Open(p), ErrDamaged)
	gone(t, p.Name)
}

// F52: several goroutines open and close containers of their own.
func TestOpenConcurrently(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	key := randomKey(t)
	var group sync.WaitGroup
	for n := range 4 {
		c, _ := onLoop(t, key)
		p := openParams(key)
		p.Name = fmt.Sprintf("concurrent-%d", n)
		group.Go(func() {
			for range 5 {
				if err := c.Open(p); err != nil {
					t.Error(err)
					return
				}
				if err := Close(p.Name); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
}

// A key that the kernel cannot have in its keyring would lie readable in the table: then there is no mapping at all.
func TestCryptsetupOpensOurs(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	key := randomKey(t)
	c, file := onLoop(t, key)
	mustCLI(t, key, "open", "--key-file", "-", "--key-slot", "31", c.Path(), "by-hand")
	if out, err := exec.Command("cryptsetup", "close", "by-hand").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	// While the image is attached, the file itself is somebody else's.
	if h, err := At(file).Header(); err != nil || h.UUID != testUUID {
		t.Errorf("reading it: %v", err)
	}
}
