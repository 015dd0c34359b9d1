// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/coreos/go-systemd/v22/journal"
)

// The fields of the journal for what is asked for most: `journalctl VOLUKS_VOLUME=db`. Any other attribute NAME of a record is VOLUKS_NAME.
const (
	FieldVolume    = "VOLUKS_VOLUME"
	FieldOperation = "VOLUKS_OPERATION" // the id of one operation, over all processes
	FieldError     = "VOLUKS_ERROR"
)

// Journal returns a handler that writes records with their fields to the journal, if standard error goes there, and nil otherwise. What the journal does not
// take goes to the other handler.
func Journal(level slog.Level, otherwise slog.Handler) slog.Handler {
	if ours, err := journal.StderrIsJournalStream(); err != nil || !ours || !journal.Enabled() {
		return nil
	}
	return &journalHandler{level: level, otherwise: otherwise, send: journal.Send}
}

// journalHandler is a slog.Handler. Groups are written into the names of fields.
type journalHandler struct {
	level     slog.Level
	otherwise slog.Handler
	send      func(message string, priority journal.Priority, fields map[string]string) error
	attrs     []slog.Attr // with the groups in their keys
	group     string      // of the attributes to come: "a.b."
}

func (h *journalHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *journalHandler) Handle(ctx context.Context, r slog.Record) error {
	attrs := append([]slog.Attr{}, h.attrs...)
	r.Attrs(func(a slog.Attr) bool {
		attrs = flatten(attrs, h.group, a)
		return true
	})
	message, fields := entry(r.Message, attrs)
	if h.send(message, priority(r.Level), fields) == nil {
		return nil
	}
	return h.otherwise.Handle(ctx, r)
}

func (h *journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	with := *h
	with.attrs = append([]slog.Attr{}, h.attrs...)
	for _, a := range attrs {
		with.attrs = flatten(with.attrs, h.group, a)
	}
	with.otherwise = h.otherwise.WithAttrs(attrs)
	return &with
}

func (h *journalHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	with := *h
	with.group += name + "."
	with.otherwise = h.otherwise.WithGroup(name)
	return &with
}

// flatten resolves an attribute and takes groups apart. What knows how to be logged, a key for example, says itself what is shown of it.
func flatten(attrs []slog.Attr, group string, a slog.Attr) []slog.Attr {
	a.Value = a.Value.Resolve()
	if a.Value.Kind() != slog.KindGroup {
		if a.Equal(slog.Attr{}) {
			return attrs
		}
		return append(attrs, slog.Attr{Key: group + a.Key, Value: a.Value})
	}
	if a.Key != "" {
		group += a.Key + "."
	}
	for _, inner := range a.Value.Group() {
		attrs = flatten(attrs, group, inner)
	}
	return attrs
}

// entry makes a message that can be read without the fields, and the fields. An error ends the sentence; the rest follows in parentheses.
func entry(text string, attrs []slog.Attr) (message string, fields map[string]string) {
	fields = map[string]string{"SYSLOG_IDENTIFIER": "voluks"}
	var rest []string
	for _, a := range attrs {
		value := a.Value.String()
		switch a.Key {
		case "error", "err":
			fields[FieldError] = value
			if text != "" {
				text += ": "
			}
			text += strings.ReplaceAll(value, "\n", "; ")
			continue
		case "operation":
			fields[FieldOperation] = value // too long a word to read
			continue
		}
		fields[fieldName(a.Key)] = value
		rest = append(rest, a.Key+"="+quoteBlank(strings.ReplaceAll(value, "\n", "; ")))
	}
	if len(rest) > 0 {
		text += " (" + strings.Join(rest, " ") + ")"
	}
	return text, fields
}

func quoteBlank(s string) string {
	if s == "" || strings.ContainsAny(s, " \t\"()=") {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// fieldName makes a name that the journal takes: capital letters, digits and underscores.
func fieldName(key string) string {
	return "VOLUKS_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, key)
}

func priority(l slog.Level) journal.Priority {
	switch {
	case l >= slog.LevelError:
		return journal.PriErr
	case l >= slog.LevelWarn:
		return journal.PriWarning
	case l >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}
