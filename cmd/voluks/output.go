// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/voluks/voluks/internal/volume"
)

// print writes the outcome of a command: v as JSON for a program, or what text writes for a person.
func (e *env) print(v any, text func(w io.Writer)) error {
	if !e.json {
		text(e.stdout)
		return nil
	}
	enc := json.NewEncoder(e.stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}

// table writes rows under their heads, in columns.
func table(w io.Writer, heads []string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{heads}, rows...) {
		for i, cell := range row {
			if cell == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	t.Flush()
}

// report writes an error: "error:" and "hint:" lines for a person, one JSON object for a program.
func (e *env) report(err error) {
	hints := hint(err)
	if e.json {
		type failure struct {
			Code    string   `json:"code"`
			Message string   `json:"message"`
			Hint    []string `json:"hint,omitempty"`
			Exit    int      `json:"exit"`
		}
		enc := json.NewEncoder(e.stderr)
		enc.SetEscapeHTML(false)
		enc.Encode(map[string]failure{"error": {errorCode(err), err.Error(), hints, exitCode(err)}})
		return
	}
	if journal := e.journal(slog.LevelInfo); journal != nil {
		log := slog.New(journal)
		var about *volume.Error
		if errors.As(err, &about) && about.Volume != "" {
			log = log.With("volume", about.Volume)
		}
		for _, line := range messages(err) {
			log.Error("", "error", line)
		}
		for _, h := range hints {
			log.Info("hint: " + h)
		}
		return
	}
	for _, line := range messages(err) {
		fmt.Fprintf(e.stderr, "error: %s\n", line)
	}
	for _, h := range hints {
		fmt.Fprintf(e.stderr, "hint: %s\n", h)
	}
}

// messages are the lines of an error. A join of several has one each.
func messages(err error) []string {
	var joined interface{ Unwrap() []error }
	var single *volume.Error
	if errors.As(err, &joined) && !errors.As(err, &single) {
		return strings.Split(err.Error(), "\n")
	}
	return []string{strings.ReplaceAll(err.Error(), "\n", "; ")}
}

// warn tells a person of something beside the outcome. Programs find it in the JSON.
func (e *env) warn(format string, args ...any) {
	if !e.json {
		fmt.Fprintf(e.stderr, "warning: "+format+"\n", args...)
	}
}

// age writes how long ago something was, in the unit that a person would use.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(max(d, 0).Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}
