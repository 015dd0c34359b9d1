// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/activation"
)

// Sockets are the listeners that systemd handed over, by the FileDescriptorName= of their socket unit (which is the
// unit's own name, such as "voluks.socket", unless the unit says otherwise).
type Sockets map[string][]net.Listener

// Listeners takes over every listening socket that systemd passed to this process, and removes the variables that
// announce them, so that children do not take them for their own. Without socket activation it returns an empty map.
// A descriptor that is no listening stream socket is an error: activation.Listeners would drop it without a word, and
// the agent would make a socket of its own beside the one that systemd holds.
func Listeners() (Sockets, error) {
	return wrap(activation.Files(true))
}

func wrap(files []*os.File) (Sockets, error) {
	sockets := Sockets{}
	var errs []error
	for _, f := range files {
		// FileListener works on a copy of the descriptor.
		l, err := net.FileListener(f)
		if err != nil {
			errs = append(errs, fmt.Errorf("take socket %q from systemd: %w", f.Name(), err))
		} else {
			sockets[f.Name()] = append(sockets[f.Name()], l)
		}
		f.Close()
	}
	if len(errs) > 0 {
		sockets.Close()
		return nil, errors.Join(errs...)
	}
	return sockets, nil
}

// Take removes the one listener of that name from the set and returns it, nil if there is none. Two listeners of one
// name are an error, since serving one of them would leave the clients of the other waiting for ever.
func (s Sockets) Take(name string) (net.Listener, error) {
	switch found := s[name]; len(found) {
	case 0:
		return nil, nil
	case 1:
		delete(s, name)
		return found[0], nil
	default:
		return nil, fmt.Errorf("take socket %q from systemd: the socket unit passes %d of them, wanted one ListenStream=", name, len(found))
	}
}

// Names lists what is left in the set, sorted.
func (s Sockets) Names() []string {
	var names []string
	for name := range s {
		names = append(names, name)
	}
	slices.SortFunc(names, strings.Compare)
	return names
}

// Close closes what is left in the set. systemd keeps its own copies and goes on listening.
func (s Sockets) Close() {
	for _, ls := range s {
		for _, l := range ls {
			l.Close()
		}
	}
}
