// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/sys"
	"github.com/voluks/voluks/luks/header"
)

func part(t *testing.T, path string, at int64, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	_, err = f.ReadAt(b, at)
	must(t, err)
	return b
}

const (
	firstCopy  = 4200 // in the JSON of the first copy
	secondCopy = 64<<10 + 4200
)

// A damaged copy is reported before libcryptsetup rewrites it, by every method that lets it; looking repairs nothing. F6
func TestDamageIsReportedBeforeRepair(t *testing.T) {
	key, other := randomKey(t), randomKey(t)
	methods := map[string]func(*Container) error{
		"test":   func(c *Container) error { return c.TestSlot(agent, key) },
		"add":    func(c *Container) error { return c.AddSlot(Auth{agent, key}, 2, other, KDFRandomKey) },
		"kill":   func(c *Container) error { return c.KillSlot(recovery) },
		"token":  func(c *Container) error { return setToken(c, 3, `{"type":"x","keyslots":[]}`) },
		"remove": func(c *Container) error { return c.RemoveToken(0) },
		"flags":  func(c *Container) error { return c.SetFlags(Flags{Discards: true}) },
	}
	good := formatted(t, key)
	must(t, good.AddSlot(Auth{agent, key}, recovery, other, KDFRandomKey))
	must(t, setToken(good, 0, `{"type":"x","keyslots":["31"]}`))
	for name, do := range methods {
		for place, at := range map[string]int64{"first": firstCopy, "second": secondCopy} {
			t.Run(name+" "+place, func(t *testing.T) {
				c := At(image(t))
				overwrite(t, c.Path(), 0, part(t, good.Path(), 0, 1<<20)) // the header and its slots
				overwrite(t, c.Path(), at, []byte("\x00"))
				before := content(t, c.Path())
				for range 2 {
					if mustHeader(t, c).Damage() == nil {
						t.Fatal("Header does not report the damage")
					}
				}
				if before != content(t, c.Path()) {
					t.Fatal("Header wrote")
				}
				var reported *header.DamagedError
				c.OnDamage(func(err error) {
					if !errors.As(err, &reported) {
						t.Errorf("reported %v", err)
					}
					if before != content(t, c.Path()) {
						t.Error("repaired before it was reported")
					}
				})
				must(t, do(c))
				if reported == nil || (reported.Primary != nil) != (place == "first") || (reported.Secondary != nil) != (place == "second") {
					t.Errorf("reported %v", reported)
				}
				if err := mustHeader(t, c).Damage(); err != nil {
					t.Errorf("afterwards: %v", err)
				}
			})
		}
	}
}

// With both copies damaged everything fails, and nothing is written: what is left may still help a person. F6
func TestBothCopiesDamaged(t *testing.T) {
	key := randomKey(t)
	c := formatted(t, key)
	overwrite(t, c.Path(), firstCopy, []byte("\x00"))
	overwrite(t, c.Path(), secondCopy, []byte("\x00"))
	before := content(t, c.Path())
	c.OnDamage(func(error) { t.Error("a lost header is an error, not a report") })
	for name, err := range map[string]error{
		"test": c.TestSlot(agent, key), "add": c.AddSlot(Auth{agent, key}, 2, key, KDFRandomKey), "kill": c.KillSlot(agent), "token": setToken(c, 0, "{}"),
		"remove": c.RemoveToken(0), "flags": c.SetFlags(Flags{}), "witness": c.Witness(agent, key),
	} {
		var damage *header.DamagedError
		if !errors.Is(err, ErrDamaged) || !errors.As(err, &damage) || !damage.Lost() {
			t.Errorf("%s: %v", name, err)
		}
	}
	if before != content(t, c.Path()) {
		t.Error("something was written")
	}
}

// A copy that somebody is just writing is read again, and one that nobody writes is soon taken for damaged.
func TestHeaderOfTornWrite(t *testing.T) {
	key := randomKey(t)
	c := formatted(t, key)
	whole := part(t, c.Path(), firstCopy, 1)
	for finishedAfter := 1; finishedAfter <= 3; finishedAfter++ {
		overwrite(t, c.Path(), firstCopy, []byte("\x00"))
		f, err := sys.OpenDirect(c.Path(), false)
		must(t, err)
		pauses := 0
		h, err := readHeader(f, func(time.Duration) {
			if pauses++; pauses == finishedAfter {
				overwrite(t, c.Path(), firstCopy, whole)
			} else {
				overwrite(t, c.Path(), firstCopy, []byte{byte(pauses)})
			}
		})
		must(t, err)
		must(t, f.Close())
		if h.Damage() != nil || pauses != finishedAfter {
			t.Errorf("finished after %d pauses: read after %d, %v", finishedAfter, pauses, h.Damage())
		}
	}
	overwrite(t, c.Path(), firstCopy, []byte("\x00"))
	if mustHeader(t, c).Damage() == nil {
		t.Error("no damage")
	}
}
