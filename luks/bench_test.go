// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"slices"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/luks/header"
	"github.com/voluks/voluks/luks/internal/cryptsetup"
)

// What an unlock costs, and what of it is whose, in medians, since others use the machine. "program" is the cryptsetup program, start of the process
// included; what begins with "only" is a part of Open.
//
//	go test -exec "$PWD/scripts/guest-small" -run - -bench Open -benchtime 40x ./luks
func BenchmarkOpen(b *testing.B) {
	testenv.Guest(b)
	key := randomKey(b)
	c, _ := onLoop(b, key)
	p := openParams(key)
	open := func() { must(b, c.Open(p)) }
	shut := func() { must(b, Close(p.Name)) }
	load := func(f func(*cryptsetup.Device) error) func() { return func() { must(b, c.load("open", nil, f)) } }
	nothing := func() {}
	for _, part := range []struct {
		name              string
		before, do, after func()
	}{
		{"Open", nothing, open, shut},
		{"program", nothing, func() { mustCLI(b, key, "open", "--key-file", "-", "--key-slot", "31", c.Path(), p.Name) }, shut},
		{"only look", nothing, func() { must(b, mustHeader(b, c).Strict(header.Expect{})) }, nothing},
		{"only load", nothing, load(func(*cryptsetup.Device) error { return nil }), nothing},
		{"only load and derive", nothing, load(func(d *cryptsetup.Device) error { return d.Test(agent, key.Bytes()) }), nothing},
		{"only load, derive and activate", nothing, load(func(d *cryptsetup.Device) error { return d.Activate(p.Name, agent, key.Bytes(), cryptsetup.Flags{}) }), shut},
		{"Close", open, shut, nothing},
		{"TestSlot", nothing, func() { must(b, c.TestSlot(agent, key)) }, nothing},
		{"Witness", nothing, func() { must(b, c.Witness(agent, key)) }, nothing},
	} {
		b.Run(part.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				part.before()
				start := time.Now()
				part.do()
				took = append(took, time.Since(start))
				part.after()
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "median-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func BenchmarkFormat(b *testing.B) {
	testenv.Guest(b)
	key := randomKey(b)
	c, _ := onLoop(b, key)
	for b.Loop() {
		must(b, c.Format(params(key)))
	}
}
