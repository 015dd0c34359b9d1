// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/testenv"
)

func TestDM(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	if _, err := DMByName("none"); !errors.Is(err, ErrNotExist) {
		t.Errorf("no such device: %v", err)
	}
	if all, err := DMList(); err != nil || len(all) != 0 {
		t.Errorf("empty: %v, %v", all, err)
	}
	path := testenv.DM(t, "two", "0 8192 zero\n8192 4096 error")
	key := strings.Repeat("00112233445566778899aabbccddeeff", 4)
	testenv.DM(t, "literal", "0 4096 crypt aes-xts-plain64 "+key+" 0 /dev/mapper/two 0")
	d, err := DMByName("two")
	must(t, err)
	major, minor, err := DevOf(path)
	must(t, err)
	if d.Name != "two" || d.UUID != "" || d.Major != major || d.Minor != minor || d.OpenCount != 1 || d.Suspended || len(d.Targets) != 2 ||
		d.Targets[0] != (DMTarget{0, 8192, "zero", ""}) || d.Targets[1] != (DMTarget{8192, 4096, "error", ""}) {
		t.Errorf("%+v", d)
	}
	c, err := DMByName("literal")
	must(t, err)
	if len(c.Targets) != 1 || !strings.HasPrefix(c.Targets[0].Params, "aes-xts-plain64 - 0 ") { // F41
		t.Errorf("%+v", c)
	}
	if by, err := DMByDev(c.Major, c.Minor); err != nil || by.Name != "literal" {
		t.Errorf("%+v, %v", by, err)
	}
	if s, err := BlockSlaves(c.Major, c.Minor); err != nil || len(s) != 1 || s[0].Major != major || s[0].Minor != minor {
		t.Errorf("slaves %v, %v", s, err)
	}
	if h, err := BlockHolders(major, minor); err != nil || len(h) != 1 || h[0].Minor != c.Minor {
		t.Errorf("holders %v, %v", h, err)
	}
	if all, err := DMList(); err != nil || len(all) != 2 {
		t.Errorf("list: %+v, %v", all, err)
	}
}

func TestDMByUUIDPrefix(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	testenv.DM(t, "a", "0 8 zero")
	for _, name := range []string{"x", "y"} {
		cmd := exec.Command("dmsetup", "create", name, "--noudevsync", "--noudevrules", "--uuid", "CRYPT-LUKS2-"+name, "--table", "0 8 zero")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Cleanup(func() {
			if out, err := exec.Command("dmsetup", "remove", name, "--noudevsync").CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	for prefix, n := range map[string]int{"CRYPT-LUKS2-": 2, "CRYPT-LUKS2-y": 1, "CRYPT-LUKS2-yy": 0, "": 3} {
		if found, err := DMByUUIDPrefix(prefix); err != nil || len(found) != n {
			t.Errorf("%q: %+v, %v", prefix, found, err)
		}
	}
}

// F12: looking never waits, whatever state the device or what lies below it is in.
func TestDMSuspended(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	testenv.DM(t, "lower", "0 8192 zero")
	path := testenv.DM(t, "upper", "0 8192 linear /dev/mapper/lower 0")
	testenv.DMSuspend(t, "lower")
	testenv.DMSuspend(t, "upper")
	done := make(chan string, 1)
	go func() {
		var problems []string
		d, err := DMByName("upper")
		if err != nil || !d.Suspended || len(d.Targets) != 1 {
			problems = append(problems, "DMByName", errText(err))
		}
		if all, err := DMList(); err != nil || len(all) != 2 {
			problems = append(problems, "DMList", errText(err))
		}
		if size, err := BlockDeviceSize(path); err != nil || size != 8192*512 {
			problems = append(problems, "BlockDeviceSize", errText(err))
		}
		if _, err := LoopList(); err != nil {
			problems = append(problems, "LoopList", errText(err))
		}
		if _, err := MountNamespaces(); err != nil {
			problems = append(problems, "MountNamespaces", errText(err))
		}
		done <- strings.Join(problems, " ")
	}()
	select {
	case problems := <-done:
		if problems != "" {
			t.Error(problems)
		}
	case <-time.After(10 * time.Second):
		t.Error("blocked by a suspended device")
		testenv.DMResume(t, "lower")
		testenv.DMResume(t, "upper")
		<-done
	}
}

func errText(err error) string {
	if err == nil {
		return "wrong answer"
	}
	return err.Error()
}

// F1, F2: a device that fails, and one that is shorter than it was, give errors and never data.
func TestDirectOnBrokenDevices(t *testing.T) {
	testenv.Guest(t)
	testenv.LeakCheck(t)
	path := testenv.DM(t, "broken", "0 8192 zero\n8192 8192 error")
	if b, err := ReadDirect(path, 0, 8192*512); err != nil || len(b) != 8192*512 {
		t.Errorf("good half: %d bytes, %v", len(b), err)
	}
	for _, r := range [][2]int{{8192 * 512, 1}, {8192*512 - 1, 2}, {0, 16384 * 512}, {16384*512 - 1, 1}} {
		if b, err := ReadDirect(path, int64(r[0]), r[1]); err == nil {
			t.Errorf("%v: %d bytes", r, len(b))
		}
	}
	d, err := OpenDirect(path, false)
	must(t, err)
	defer d.Close()
	testenv.DMReload(t, "broken", "0 4096 zero")
	b := make([]byte, 8192*512)
	if n, err := d.ReadAt(b, 0); err == nil {
		t.Errorf("%d bytes of a device that shrank", n)
	}
	if _, err := ReadDirect(filepath.Join("/dev/mapper", "gone"), 0, 1); !errors.Is(err, ErrNotExist) {
		t.Errorf("device that is gone: %v", err)
	}
}
