// SPDX-License-Identifier: Apache-2.0

package volumetest

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/testenv"
	"github.com/voluks/voluks/internal/volume"
	"github.com/voluks/voluks/keyslot"
)

// Node is a machine with everything that a Manager needs: directories, keys, and a clock that a test moves.
type Node struct {
	*Machine
	Paths    config.Paths     // below a directory of the test
	Provider *kektest.Memory  // in memory
	Keyring  *keyslot.Keyring // over Provider
	Defaults volume.Defaults  // for new volumes
	Logger   *slog.Logger     // writes into the test's output
	// Identity is that of the keyring's recipients, and Lent what the Managers get of it; nothing unless a test lends it.
	Identity, Lent []recovery.Identity
	DrillEvery     time.Duration // as in the configuration

	mu  sync.Mutex
	now time.Time
}

// NewNode makes a node below a temporary directory. In a guest the test is skipped: the fake is the same everywhere.
func NewNode(t testing.TB) *Node {
	t.Helper()
	testenv.Outside(t)
	n := &Node{
		Machine: NewMachine(t), Paths: config.PathsUnder(memoryDir(t)), Provider: kektest.NewMemory("test"),
		Defaults: volume.Defaults{Size: 64 << 20, FS: "ext4", Overcommit: true}, now: time.Now(),
		Logger: slog.New(slog.DiscardHandler),
	}
	var recipient recovery.Recipient
	recipient, n.Identity = Identity(t)
	n.Keyring = &keyslot.Keyring{KEK: n.Provider.Set(), Recipients: []recovery.Recipient{recipient}}
	return n
}

// memoryDir is a temporary directory that no disk has to write, if there can be one: enumerations make thousands of small files.
func memoryDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "voluks-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// Recipient makes a recovery recipient whose identity is thrown away.
func Recipient(t testing.TB) recovery.Recipient {
	t.Helper()
	r, _ := Identity(t)
	return r
}

// Identity makes a recovery identity.
func Identity(t testing.TB) (recovery.Recipient, []recovery.Identity) {
	t.Helper()
	text, _, err := recovery.Generate()
	if err != nil {
		t.Fatal(err)
	}
	defer text.Wipe()
	identities, err := recovery.ParseIdentities(text)
	if err != nil {
		t.Fatal(err)
	}
	return identities[0].Recipient(), identities
}

// Manager starts a program with a Manager.
func (n *Node) Manager() *volume.Manager { return n.ManagerOf(n.Process()) }

// ManagerOf makes the Manager of a program.
func (n *Node) ManagerOf(p *Process) *volume.Manager { return n.ManagerOfAt(p, nil) }

// ManagerAt starts a program whose Manager calls at for each named point between two writes.
func (n *Node) ManagerAt(at func(point string)) *volume.Manager {
	return n.ManagerOfAt(n.Process(), at)
}

// ManagerOfAt is ManagerOf with ManagerAt's function.
func (n *Node) ManagerOfAt(p *Process, at func(point string)) *volume.Manager {
	return volume.New(volume.Options{
		Paths: n.Paths, Defaults: n.Defaults, Storage: p.Storage(), Now: n.Now, Patience: time.Nanosecond, SweepGap: time.Minute, Log: n.Logger, Crash: at,
		Backups:    p.Backups(),
		Keyring:    func(context.Context) (*keyslot.Keyring, error) { return n.Keyring, nil },
		Identities: n.Lent, DrillEvery: func() time.Duration { return n.DrillEvery },
	})
}

// Now is the node's clock.
func (n *Node) Now() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.now
}

// Sleep moves the clock.
func (n *Node) Sleep(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.now = n.now.Add(d)
}

// Reboot is Machine.Reboot and an empty runtime directory.
func (n *Node) Reboot() {
	n.Machine.Reboot()
	if err := os.RemoveAll(n.Paths.Run); err != nil {
		n.t.Fatal(err)
	}
}
