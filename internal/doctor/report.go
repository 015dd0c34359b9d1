// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
)

// Level says how bad a finding is.
type Level string

// The levels, best first.
const (
	OK      Level = "ok"
	Note    Level = "note"    // worth knowing; nothing has to be done
	Unknown Level = "unknown" // could not be found out, which is not the same as fine
	Warning Level = "warning" // volumes work, but slowly, or with a risk
	Error   Level = "error"   // volumes do not work, or data is in danger
)

var order = []Level{OK, Note, Unknown, Warning, Error}

// Worse tells whether l is worse than other.
func (l Level) Worse(other Level) bool { return slices.Index(order, l) > slices.Index(order, other) }

// Finding is one line of a report. Its JSON form is stable: fields are added, never renamed.
type Finding struct {
	Check string `json:"check"`          // which check this is from; stable, for scripts that care for some of them alone
	Level Level  `json:"level"`          // how bad it is
	What  string `json:"what"`           // what was found
	Why   string `json:"why"`            // why it matters
	Mend  string `json:"mend,omitempty"` // how to mend it, where there is something to mend
}

// Report is what came of looking a node over.
type Report struct {
	Worst    Level     `json:"worst"`    // of all findings
	Findings []Finding `json:"findings"` // in the order of the checks
}

// Row gives a finding as cells of a table: level, check, what.
func (f Finding) Row() []string { return []string{string(f.Level), f.Check, f.What} }

// Above returns the findings that are at least that bad, the worst first.
func (r Report) Above(least Level) []Finding {
	var found []Finding
	for _, f := range r.Findings {
		if !least.Worse(f.Level) {
			found = append(found, f)
		}
	}
	slices.SortStableFunc(found, func(a, b Finding) int {
		return cmp.Compare(slices.Index(order, b.Level), slices.Index(order, a.Level))
	})
	return found
}

// findings collects what one check has to say.
type findings struct {
	check Check
	list  []Finding
}

func (f *findings) add(level Level, mend, what string, args ...any) {
	f.list = append(f.list, Finding{Check: f.check.ID, Level: level, What: fmt.Sprintf(what, args...), Why: f.check.Why, Mend: mend})
}

func (f *findings) ok(what string, args ...any)   { f.add(OK, "", what, args...) }
func (f *findings) note(what string, args ...any) { f.add(Note, "", what, args...) }

// unknown reports that something could not be looked at; nil is nothing to report.
func (f *findings) unknown(err error) bool {
	if err != nil {
		mend := ""
		if errors.Is(err, fs.ErrPermission) {
			mend = "run it as root"
		}
		f.add(Unknown, mend, "could not be found out: %v", err)
	}
	return err != nil
}
