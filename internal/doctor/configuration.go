// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/voluks/voluks/internal/config"
)

var configChecks = []Check{
	{"config", "with a configuration that is wrong nothing is created or opened", configuration},
	{"config.recovery", "without a recovery identity, who loses the key loses every volume", recovery},
	{"recovery.drill", "an identity that nobody can find, or shares whose owners have left, are noticed by trying, or on the day of the loss", drills},
	{"keys", "volumes open with the key that this provider holds", keys},
}

// config reads the configuration.
func (n *Node) config() (config.Config, error) {
	f, err := os.Open(n.ConfigFile)
	if err != nil {
		return config.Config{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return config.Config{}, err
	}
	return config.Parse(n.ConfigFile, b, n.Paths)
}

func configuration(n *Node, f *findings) {
	_, err := n.config()
	var wrong *config.Error
	switch {
	case err == nil:
		f.ok("%s is right", n.ConfigFile)
	case errors.Is(err, fs.ErrNotExist):
		f.add(Error, "voluks init", "this node is not set up: there is no %s", n.ConfigFile)
	case errors.As(err, &wrong):
		for line := range strings.SplitSeq(err.Error(), "\n") {
			f.add(Error, "sudoedit "+n.ConfigFile, "%s", line)
		}
	default:
		f.unknown(err)
	}
}

func recovery(n *Node, f *findings) {
	cfg, err := n.config()
	switch r := cfg.Recovery; {
	case err != nil:
		f.note("see config")
	case r.None:
		f.add(Warning, "voluks recovery init; or keep backups of the key and of the data, and leave it so", "recovery is switched off")
	case len(r.Recipients) == 0:
		f.add(Error, "voluks recovery init", "there is no recovery recipient, so no volume can be created")
	case !r.Confirmed:
		f.add(Error, "when the identity is kept safely: set confirmed = true in [recovery] of "+n.ConfigFile, "nobody has confirmed to have the recovery identity")
	default:
		f.ok("recovery recipients: %d, confirmed", len(r.Recipients))
	}
}

func drills(n *Node, f *findings) {
	if n.Drills == nil {
		f.note("not asked")
		return
	}
	due, err := n.Drills()
	if f.unknown(err) {
		return
	}
	for _, sentence := range due {
		f.add(Warning, "voluks recovery verify", "%s", sentence)
	}
	if len(due) == 0 {
		f.ok("no volume is due for a trial of the recovery identity")
	}
}

func keys(n *Node, f *findings) {
	cfg, err := n.config()
	if err != nil || n.Keys == nil {
		f.note("not asked")
		return
	}
	if err := n.Keys(cfg); err != nil {
		f.add(Error, "", "%v", err)
		return
	}
	f.ok("the provider %s can be used", cfg.KEK.Provider)
}
