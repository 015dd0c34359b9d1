// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"time"
)

// Check is one thing that is looked at.
type Check struct {
	ID  string // stable; GROUP.THING
	Why string // why it matters, one sentence
	run func(*Node, *findings)
}

// Checks are all of them, in the order of a report: from the kernel up to what people configure.
func Checks() []Check {
	var all []Check
	for _, group := range [][]Check{kernelChecks, udevChecks, programChecks, agentChecks, dockerChecks, configChecks, fileChecks, diskChecks, clockChecks} {
		all = append(all, group...)
	}
	return all
}

// patience is how long one check may take. A dead network file system below one of the paths must not keep the others from being said.
const patience = 10 * time.Second

// Run looks the node over. It changes nothing, and a check that does not end is reported and left behind.
func Run(n *Node) Report {
	r := Report{Worst: OK}
	wait := n.Patience
	if wait == 0 {
		wait = patience
	}
	for _, c := range Checks() {
		done := make(chan []Finding, 1)
		go func() { done <- look(n, c) }()
		var found []Finding
		select {
		case found = <-done:
		case <-time.After(wait):
			f := findings{check: c}
			f.unknown(fmt.Errorf("no answer within %v", wait))
			found = f.list
		}
		for _, f := range found {
			r.Findings = append(r.Findings, f)
			if f.Level.Worse(r.Worst) {
				r.Worst = f.Level
			}
		}
	}
	return r
}

func look(n *Node, c Check) []Finding {
	f := findings{check: c}
	c.run(n, &f)
	return f.list
}
