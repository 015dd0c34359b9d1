// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
)

// manyVolumes stands for the volumes of a node.
type manyVolumes struct {
	mu       sync.Mutex
	infos    []volume.Info
	errs     map[string]error // by volume: what asking for its key, or closing it, fails with
	unsettle []string
	calls    []string
}

func (f *manyVolumes) List(context.Context) ([]volume.Info, error) { return f.infos, nil }

func (f *manyVolumes) Unsettled(context.Context) ([]string, error) { return f.unsettle, nil }

func (f *manyVolumes) call(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, fmt.Sprintf(format, args...))
}

func (f *manyVolumes) Unlockable(_ context.Context, name string) error {
	f.call("ask %s", name)
	return f.errs[name]
}

func (f *manyVolumes) Unmount(_ context.Context, name, holder string) error {
	f.call("unmount %s %s", name, holder)
	return f.errs[name]
}

func (f *manyVolumes) Settle(_ context.Context, name string) error {
	f.call("settle %s", name)
	return f.errs[name]
}

func keyed(name, key string, state volume.State) volume.Info {
	return volume.Info{Name: name, State: state, Slots: []volume.SlotInfo{{Role: keyslot.RoleRecovery}, {Role: keyslot.RoleAgent, KEK: key}}}
}

// The gate asks once per key, goes on past what waiting does not mend, and waits for what may come. F23 F43
func TestGate(t *testing.T) {
	var log bytes.Buffer
	f := &manyVolumes{
		infos: []volume.Info{
			keyed("a1", "vault:1", volume.StateReady), keyed("a2", "vault:1", volume.StateReady), keyed("a3", "vault:1", volume.StateLocked),
			keyed("b1", "file:2", volume.StateReady), keyed("b2", "file:2", volume.StateReady),
			keyed("open", "gone:3", volume.StateMounted), keyed("half", "gone:3", volume.StatePrepared),
		},
		errs: map[string]error{"a1": fmt.Errorf("down: %w", kek.ErrUnavailable), "b1": errors.New("damaged header")},
	}
	g := gate{m: f, log: slog.New(slog.NewTextHandler(&log, nil)), said: map[string]bool{}}
	if err := g.look(t.Context()); !errors.Is(err, kek.ErrUnavailable) {
		t.Errorf("with one provider away: %v", err)
	}
	slices.Sort(f.calls)
	if want := []string{"ask a1", "ask b1", "ask b2"}; !slices.Equal(f.calls, want) || g.volumes != 5 {
		t.Errorf("asked %q, want %q; %d volumes", f.calls, want, g.volumes)
	}
	f.errs["a1"] = nil
	if err := g.look(t.Context()); err != nil {
		t.Errorf("with all there: %v", err)
	}
	if got := strings.Count(log.String(), "damaged header"); got != 1 {
		t.Errorf("said %d times what is wrong:\n%s", got, log.String())
	}
}

func TestPersist(t *testing.T) {
	away := fmt.Errorf("x: %w", kek.ErrUnavailable)
	for name, c := range map[string]struct {
		errs    []error // of one try after the other; the last one for ever
		timeout time.Duration
		tries   int // 0: more than one
		want    error
	}{
		"there":      {[]error{nil}, time.Minute, 1, nil},
		"late":       {[]error{away, away, nil}, time.Minute, 3, nil},
		"busy":       {[]error{&volume.Error{Code: volume.CodeBusy}, nil}, time.Minute, 2, nil},
		"damaged":    {[]error{volume.ErrDamaged}, time.Minute, 1, volume.ErrDamaged},
		"never":      {[]error{away}, 600 * time.Millisecond, 0, kek.ErrUnavailable},
		"no waiting": {[]error{away}, 0, 1, kek.ErrUnavailable},
	} {
		tries, told := 0, 0
		err := persist(t.Context(), c.timeout, func() error {
			tries++
			return c.errs[min(tries, len(c.errs))-1]
		}, func(error, time.Duration) { told++ })
		if !errors.Is(err, c.want) || c.tries != 0 && tries != c.tries || c.tries == 0 && tries < 2 || told != tries-1 {
			t.Errorf("%s: %v after %d tries, told %d", name, err, tries, told)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := persist(ctx, time.Hour, func() error { return away }, func(error, time.Duration) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// At shutdown all holders are forgotten, what nobody holds is closed, and one that cannot be closed keeps no other. F43
func TestCloseAll(t *testing.T) {
	held := func(name string, ids ...string) volume.Info {
		i := volume.Info{Name: name, State: volume.StateMounted}
		for _, id := range ids {
			i.Holders = append(i.Holders, volume.Holder{ID: id})
		}
		return i
	}
	busy := &volume.Error{Code: volume.CodeBusy, Op: "unmount", Volume: "b", Err: &volume.HeldError{Others: []string{"process 7"}, Closing: true}}
	f := &manyVolumes{
		infos:    []volume.Info{held("a", "1", "2"), held("b", "3"), {Name: "c", State: volume.StateClosing}, {Name: "d", State: volume.StateReady}},
		unsettle: []string{"b", "c"},
		errs:     map[string]error{"b": busy},
	}
	err := closeAll(t.Context(), f)
	if !errors.Is(err, volume.ErrBusy) || !strings.Contains(err.Error(), "process 7") {
		t.Errorf("%v", err)
	}
	slices.Sort(f.calls)
	if want := []string{"settle c", "unmount a 1", "unmount a 2", "unmount b 3"}; !slices.Equal(f.calls, want) {
		t.Errorf("%q, want %q", f.calls, want)
	}
}

func TestAsHelper(t *testing.T) {
	for in, want := range map[string]string{
		"voluks volume ls": "voluks volume ls",
		"/sbin/mount.voluks voluks:pg /srv/pg -o rw,_netdev": "/sbin/mount.voluks boot mount --options rw,_netdev -- voluks:pg /srv/pg",
		"mount.voluks voluks:pg /srv/pg -sn":                 "mount.voluks boot mount -- voluks:pg /srv/pg",
		"mount.voluks voluks:pg /srv/pg -f -v":               "mount.voluks boot mount --fake -- voluks:pg /srv/pg",
		"mount.voluks voluks:pg /srv/pg -N 12 -t voluks.x":   "mount.voluks boot mount --namespace 12 -- voluks:pg /srv/pg",
	} {
		if got := strings.Join(asHelper(strings.Fields(in)), " "); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestRefusedOption(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "rw,nofail,_netdev,x-systemd.automount,comment=a": "", "rw,ro": "ro", "discard": "discard", "X-mount.mkdir,noexec": "noexec",
	} {
		if got := refusedOption(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
