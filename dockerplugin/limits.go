// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import "time"

// Limits bound what one request may take. Docker gives up Create and Mount after 120 s and everything else after 60 s, and does not
// tell: a Mount that succeeds later has no Unmount. So each class of calls has two deadlines below Docker's. At Work the operation's context ends and the
// layers below undo what they began; at Answer the client is told, even if they are stuck.
type Limits struct {
	LongWork    time.Duration // Create and Mount
	LongAnswer  time.Duration // until their answer at the latest
	ShortWork   time.Duration // all others
	ShortAnswer time.Duration // likewise
	Undo        time.Duration // for calls that are cut short when the agent must stop
	Body        int64         // bytes of a request
	ReadBody    time.Duration // for the client to send its request
}

// DefaultLimits are what the agent runs with.
var DefaultLimits = Limits{
	LongWork:    95 * time.Second,
	LongAnswer:  108 * time.Second,
	ShortWork:   45 * time.Second,
	ShortAnswer: 55 * time.Second,
	Undo:        10 * time.Second,
	Body:        1 << 20, // Docker's requests have a few hundred bytes
	ReadBody:    10 * time.Second,
}

// of returns the two deadlines of a call.
func (l Limits) of(path string) (work, answer time.Duration) {
	if path == pathCreate || path == pathMount {
		return l.LongWork, l.LongAnswer
	}
	return l.ShortWork, l.ShortAnswer
}

const (
	pathCreate = "/VolumeDriver.Create"
	pathMount  = "/VolumeDriver.Mount"
	// Docker sends Unmount and Remove when it no longer wants to hear of the volume; they run to their end even if it hangs up.
	pathUnmount = "/VolumeDriver.Unmount"
	pathRemove  = "/VolumeDriver.Remove"
)
