// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
)

const (
	// watchEvery is how often the agent looks whether a volume was locked.
	watchEvery = 5 * time.Second
	// longestLookPause is the longest time between two looks, however long one takes.
	longestLookPause = 30 * time.Second
	// finalWait is how long it waits before it asks again for a key that was refused: somebody may have mended it.
	finalWait = 5 * time.Minute
)

// keyWatch asks for the keys of locked volumes until they can be had, so that the status says what keeps each volume and when it is asked again. It
// opens none: whoever needs a volume does. After a start it asks once for each key that closed volumes need, so that what is wrong with one shows
// before somebody needs it (F40 F43).
type keyWatch struct {
	volumes keyAsker
	log     *slog.Logger
	now     func() time.Time

	mu   sync.Mutex
	keys map[string]*watchedKey // by the key that volumes are wrapped with
	wg   sync.WaitGroup
}

// keyAsker is what keyWatch needs of a worker.Client.
type keyAsker interface {
	List(context.Context) ([]volume.Info, error)
	Unlockable(ctx context.Context, name string) error
	NoteKey(name string, answer error, next time.Time) error
}

// watchedKey is a key that could not be had.
type watchedKey struct {
	backoff kek.Backoff
	next    time.Time
	asking  bool
}

func newKeyWatch(volumes keyAsker, log *slog.Logger) *keyWatch {
	return &keyWatch{volumes: volumes, log: log, now: time.Now, keys: map[string]*watchedKey{}}
}

// run watches until ctx ends.
func (w *keyWatch) run(ctx context.Context) {
	defer w.wg.Wait()
	for all := true; ; all = false {
		began := time.Now()
		w.look(ctx, all)
		select {
		case <-ctx.Done():
			return
		case <-time.After(watchPause(time.Since(began))):
		}
	}
}

// watchPause is how long the next look waits after one that took so long. Among a thousand volumes a look takes seconds on a slow machine, and whoever
// mounts one meanwhile waits for it; so it gets at most a tenth of the time, unless that would be a pause in which keys that have come go unnoticed.
func watchPause(took time.Duration) time.Duration {
	return max(watchEvery, min(10*took, longestLookPause))
}

// look asks for the keys that are due, each beside the others. With all, every key is, of volumes that nobody has tried to open too.
func (w *keyWatch) look(ctx context.Context, all bool) {
	infos, err := w.volumes.List(ctx)
	if err != nil {
		return // the sweep says so
	}
	groups := byKey(infos, func(i volume.Info) bool { return i.State == volume.StateLocked || all && i.State == volume.StateReady })
	w.mu.Lock()
	defer w.mu.Unlock()
	for key, k := range w.keys {
		if groups[key] == nil && !k.asking {
			delete(w.keys, key)
		}
	}
	for key, group := range groups {
		k := w.keys[key]
		if k == nil {
			k = &watchedKey{}
			w.keys[key] = k
		}
		fresh := false
		for _, info := range group {
			fresh = fresh || info.NextTry == nil
		}
		if k.asking || !fresh && w.now().Before(k.next) {
			continue
		}
		k.asking = true
		w.wg.Go(func() { w.ask(ctx, k, group) })
	}
}

// ask asks for one key: for each volume, until the answer is that its keeper cannot be asked, which then holds for the rest too. Of volumes that are
// not locked one good answer is enough.
func (w *keyWatch) ask(ctx context.Context, k *watchedKey, group []volume.Info) {
	good := false
	var next time.Time
	for i, info := range group {
		if good && info.State != volume.StateLocked {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, askTime)
		err := w.volumes.Unlockable(ask, info.Name)
		cancel()
		if ctx.Err() != nil {
			break
		}
		rest := group[i : i+1]
		again := time.Time{}
		switch {
		case err == nil:
			good = true
		case kek.MayPass(err):
			again, rest = w.now().Add(k.backoff.Next()), group[i:]
		default:
			again = w.now().Add(finalWait/2 + rand.N(finalWait/2))
		}
		if !again.IsZero() && (next.IsZero() || again.Before(next)) {
			next = again
		}
		w.note(rest, err, again)
		if len(rest) > 1 {
			break
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	k.asking, k.next = false, next
	if good {
		k.backoff = kek.Backoff{}
	}
}

// note writes down what the answer was, and logs it where it is news.
func (w *keyWatch) note(group []volume.Info, answer error, next time.Time) {
	for _, info := range group {
		if err := w.volumes.NoteKey(info.Name, answer, next); err != nil {
			w.log.Warn("the status of a volume cannot be kept", "volume", info.Name, "error", err)
		}
		locked := info.State == volume.StateLocked
		switch {
		case answer == nil && locked:
			w.log.Info("the key can be had again", "volume", info.Name)
		case answer != nil && !locked:
			w.log.Warn("the key cannot be had", "volume", info.Name, "error", strings.ReplaceAll(answer.Error(), "\n", "; "), "next_try", next)
		}
	}
}

// byKey sorts volumes by the key that their agent slot is wrapped with.
func byKey(infos []volume.Info, want func(volume.Info) bool) map[string][]volume.Info {
	groups := map[string][]volume.Info{}
	for _, info := range infos {
		if !want(info) {
			continue
		}
		key := "unknown"
		for _, s := range info.Slots {
			if s.Role == keyslot.RoleAgent {
				key = s.KEK
			}
		}
		groups[key] = append(groups[key], info)
	}
	return groups
}
