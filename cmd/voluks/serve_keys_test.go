// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/volume"
)

// lockedNode has volumes whose keys can be had or not.
type lockedNode struct {
	mu      sync.Mutex
	infos   map[string]volume.Info
	answers map[string]error // by volume
	hangs   map[string]bool  // by volume
	asked   map[string]int
}

func (n *lockedNode) List(context.Context) ([]volume.Info, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var infos []volume.Info
	for _, info := range n.infos {
		infos = append(infos, info)
	}
	return infos, nil
}

func (n *lockedNode) Unlockable(ctx context.Context, name string) error {
	n.mu.Lock()
	n.asked[name]++
	answer, hangs := n.answers[name], n.hangs[name]
	n.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return fmt.Errorf("%w: %w", kek.ErrUnavailable, ctx.Err())
	}
	return answer
}

func (n *lockedNode) NoteKey(name string, answer error, next time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	info := n.infos[name]
	info.State, info.Reason, info.NextTry = volume.StateReady, "", nil
	if answer != nil {
		info.State, info.Reason, info.NextTry = volume.StateLocked, answer.Error(), &next
	}
	n.infos[name] = info
	return nil
}

func (n *lockedNode) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

func (n *lockedNode) states() map[string]volume.State {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := map[string]volume.State{}
	for name, info := range n.infos {
		out[name] = info.State
	}
	return out
}

// A key server that comes a minute after the boot, one that never does, one that hangs, and one that refuses: each locked volume says why and when it is
// asked again, no keeper delays another, and none is asked more often than every half a minute or so. F7 F40 F43
func TestKeyWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away, denied := fmt.Errorf("x: %w", kek.ErrUnavailable), fmt.Errorf("x: %w", kek.ErrDenied)
		n := &lockedNode{infos: map[string]volume.Info{}, asked: map[string]int{}, hangs: map[string]bool{"hangs": true},
			answers: map[string]error{"late1": away, "late2": away, "never": away, "denied": denied}}
		for name, key := range map[string]string{"here1": "file:1", "here2": "file:1", "late1": "vault:1", "late2": "vault:1", "never": "clevis:1", "denied": "awskms:1", "hangs": "exec:1"} {
			n.infos[name] = keyed(name, key, volume.StateReady)
		}
		n.infos["open"] = keyed("open", "clevis:1", volume.StateMounted)
		w := newKeyWatch(n, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		go w.run(ctx)
		expect := func(when string, want map[string]volume.State) {
			t.Helper()
			synctest.Wait()
			if got := n.states(); !maps.Equal(got, want) {
				t.Errorf("%s: %v, want %v", when, got, want)
			}
			n.set(func() {
				for name, info := range n.infos {
					if info.State == volume.StateLocked && (info.Reason == "" || info.NextTry == nil || info.NextTry.Before(time.Now().Add(-askTime-watchEvery))) {
						t.Errorf("%s: %s does not say why, or when it is asked again: %+v", when, name, info)
					}
				}
			})
		}
		want := map[string]volume.State{"here1": volume.StateReady, "here2": volume.StateReady, "late1": volume.StateLocked, "late2": volume.StateLocked,
			"never": volume.StateLocked, "denied": volume.StateLocked, "hangs": volume.StateReady, "open": volume.StateMounted}
		expect("at once", want)
		time.Sleep(askTime + time.Second)
		want["hangs"] = volume.StateLocked
		expect("after half a minute", want)
		time.Sleep(time.Minute - askTime)
		n.set(func() { delete(n.answers, "late1"); delete(n.answers, "late2") })
		time.Sleep(35 * time.Second)
		want["late1"], want["late2"] = volume.StateReady, volume.StateReady
		expect("when the late one is there", want)
		before := n.asked["late1"]
		time.Sleep(time.Hour)
		expect("an hour later", want)
		n.set(func() {
			if n.asked["late1"] != before || n.asked["here1"]+n.asked["here2"] != 1 || n.asked["open"] != 0 {
				t.Errorf("asked without need: %v", n.asked)
			}
			if got := n.asked["never"]; got < 100 || got > 300 {
				t.Errorf("in an hour a server that is gone was asked %d times", got)
			}
			if got := n.asked["denied"]; got < 12 || got > 30 {
				t.Errorf("in an hour one that refuses was asked %d times", got)
			}
		})
		// Somebody tries to open a volume, and fails: it is asked for at once.
		n.set(func() { n.infos["here1"], n.answers["here1"] = keyed("here1", "file:1", volume.StateLocked), away })
		time.Sleep(watchEvery)
		want["here1"] = volume.StateLocked
		expect("locked by a mount", want)
		cancel()
		synctest.Wait()
	})
}

func TestWatchPause(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{0: watchEvery, time.Second / 2: watchEvery, 2 * time.Second: 20 * time.Second, time.Minute: longestLookPause} {
		if got := watchPause(took); got != want {
			t.Errorf("after a look of %v it waits %v, want %v", took, got, want)
		}
	}
}
