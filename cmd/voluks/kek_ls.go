// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/volume"
)

func kekLsCommand(e *env) *cli.Command {
	return &cli.Command{
		Name:  "ls",
		Usage: "list the keys, who needs them, and whether they can be had now",
		Description: `Lists the configured keys and those that volumes need. Each key that a volume
needs is asked to unwrap what it has wrapped for one of them, and the time that
took is shown; mounted volumes do not notice.

   voluks kek ls
   voluks --format json kek ls | jq -r '.keys[] | select(.error) | .key.id'`,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			return e.kekLs(c.Context)
		},
	}
}

// The uses of a key.
const (
	useActive   = "active"         // it wraps
	usePrevious = "previous"       // it only unwraps
	useMissing  = "not configured" // volumes need it, and nobody has it
)

// keyStatus is one key.
type keyStatus struct {
	Use     string    `json:"use"`
	Key     kek.Ref   `json:"key"`
	Volumes []keyUser `json:"volumes"`
	State   string    `json:"state"`               // reachable, unreachable, not asked
	Took    *float64  `json:"unwrap_ms,omitempty"` // how long an unwrap took
	Error   string    `json:"error,omitempty"`     // why it is unreachable

	provider kek.Provider // nil if it is not configured
	err      error
}

// keyUser is a volume whose agent slot is wrapped with a key.
type keyUser struct {
	Name    string `json:"name"`
	UUID    string `json:"uuid"`
	Version string `json:"version,omitempty"` // of the key
	Removed bool   `json:"removed,omitempty"`
	Adopted bool   `json:"adopted,omitempty"` // a device of the host, not a volume

	canAsk bool
}

func (u keyUser) String() string {
	s := u.Name
	if u.Version != "" {
		s += fmt.Sprintf(" (version %s)", u.Version)
	}
	if u.Removed {
		s += " (removed)"
	}
	if u.Adopted {
		s += " (adopted device)"
	}
	return s
}

func (e *env) kekLs(ctx context.Context) error {
	_, keys, uses, err := e.keyStatuses(ctx)
	if err != nil {
		return err
	}
	m := e.manager(e.quiet(), volume.Defaults{})
	var wg sync.WaitGroup
	for i := range keys {
		wg.Go(func() { keys[i].look(ctx, m) })
	}
	wg.Wait()
	if err := e.print(map[string]any{"keys": keys}, func(w io.Writer) { keyTable(w, keys) }); err != nil {
		return err
	}
	for _, s := range keys {
		if s.Error != "" {
			e.warn("%v: %s", s.Key, s.Error)
		}
	}
	for _, u := range uses {
		if u.Err != nil {
			e.warn("it cannot be told which key %s needs: %s", u.Volume, u.Error)
		}
	}
	return nil
}

// keyStatuses are keyStatuses of this node, and what they were made of.
func (e *env) keyStatuses(ctx context.Context) (*kek.Set, []keyStatus, []volume.KeyUse, error) {
	k, err := e.keys()
	if err != nil {
		return nil, nil, nil, err
	}
	uses, err := e.keyUses(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	return k.KEK, keyStatuses(k.KEK, uses), uses, nil
}

// keyStatuses are the configured keys, the active one first, and then those that are needed and not there.
func keyStatuses(set *kek.Set, uses []volume.KeyUse) []keyStatus {
	keys := []keyStatus{}
	for i, p := range append([]kek.Provider{set.Active}, set.Previous...) {
		s := keyStatus{Use: usePrevious, Key: p.Ref(), provider: p, Volumes: []keyUser{}, State: "not asked"}
		if i == 0 {
			s.Use = useActive
		}
		if broken, ok := p.(*kek.Broken); ok {
			s.State, s.Error = "unreachable", broken.Err.Error()
		}
		s.Key.Version = ""
		keys = append(keys, s)
	}
	for _, u := range uses {
		for _, ref := range u.Keys {
			at := slices.IndexFunc(keys, func(s keyStatus) bool { return s.Key.SameKey(ref) })
			if at < 0 {
				keys = append(keys, keyStatus{Use: useMissing, Key: kek.Ref{Provider: ref.Provider, ID: ref.ID}, Volumes: []keyUser{}, State: "unreachable"})
				at = len(keys) - 1
			}
			keys[at].Volumes = append(keys[at].Volumes,
				keyUser{Name: u.Volume, UUID: u.UUID, Version: ref.Version, Removed: u.Removed, Adopted: u.Adopted, canAsk: u.Err == nil && !u.Removed && !u.Adopted})
		}
	}
	return keys
}

// look has a configured key unwrap for one of the volumes that need it. A key that no volume needs is not asked: what it would have to make for that
// might not be its business any more.
func (s *keyStatus) look(ctx context.Context, m *volume.Manager) {
	at := slices.IndexFunc(s.Volumes, func(u keyUser) bool { return u.canAsk })
	if s.provider == nil || s.Error != "" || at < 0 {
		return
	}
	took, err := m.TryKey(ctx, s.Volumes[at].Name)
	s.answered(took, err)
}

func (s *keyStatus) answered(took time.Duration, err error) {
	if err != nil {
		s.State, s.Error, s.err = "unreachable", strings.ReplaceAll(err.Error(), "\n", "; "), err
		return
	}
	ms := float64(took.Microseconds()) / 1000
	s.State, s.Took = "reachable", &ms
}

func keyTable(w io.Writer, keys []keyStatus) {
	var rows [][]string
	for _, s := range keys {
		var users []string
		for _, u := range s.Volumes {
			users = append(users, u.String())
		}
		rows = append(rows, []string{s.Use, s.Key.Provider, s.Key.ID, s.State, millis(s.Took), strings.Join(users, ", ")})
	}
	table(w, []string{"USE", "PROVIDER", "ID", "STATE", "UNWRAP", "NEEDED BY"}, rows)
}

func millis(ms *float64) string {
	if ms == nil {
		return ""
	}
	return fmt.Sprintf("%.1f ms", *ms)
}

// keyUses are those of the volumes, and of devices of the host that were adopted, which have agent slots too.
func (e *env) keyUses(ctx context.Context) ([]volume.KeyUse, error) {
	uses, err := e.manager(e.quiet(), volume.Defaults{}).KeyUses(ctx)
	if err != nil {
		return nil, err
	}
	adopted, err := e.adoptedNames()
	if err != nil {
		return nil, err
	}
	for _, name := range adopted {
		use := volume.KeyUse{Volume: name, Adopted: true}
		if use.Err = e.adoptedUse(&use); use.Err != nil {
			use.Error = use.Err.Error()
		}
		uses = append(uses, use)
	}
	return uses, nil
}
