// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"log/slog"
	"slices"
)

// logHandler writes one line per record. For the journal it leaves out the time, which the journal has, and puts the priority in front the way
// sd-daemon(3) says, so that `journalctl -p warning` works.
func logHandler(w io.Writer, level slog.Level, journal bool) slog.Handler {
	if !journal {
		return slog.NewTextHandler(w, &slog.HandlerOptions{Level: level})
	}
	options := without(level, slog.TimeKey, slog.LevelKey)
	h := journalHandler{}
	for i, p := range priorities {
		h[i] = slog.NewTextHandler(prefixer{w, p.prefix}, options)
	}
	return h
}

func withoutTime(level slog.Level) *slog.HandlerOptions { return without(level, slog.TimeKey) }

// without leaves attributes of the record itself out.
func without(level slog.Level, keys ...string) *slog.HandlerOptions {
	return &slog.HandlerOptions{Level: level, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && slices.Contains(keys, a.Key) {
			return slog.Attr{}
		}
		return a
	}}
}

// priorities are the levels of slog in those of syslog, most severe first.
var priorities = [4]struct {
	from   slog.Level
	prefix string
}{
	{slog.LevelError, "<3>"}, {slog.LevelWarn, "<4>"}, {slog.LevelInfo, "<6>"}, {slog.LevelDebug, "<7>"},
}

// journalHandler has one handler per priority.
type journalHandler [len(priorities)]slog.Handler

func (h journalHandler) Enabled(ctx context.Context, l slog.Level) bool { return h[0].Enabled(ctx, l) }

func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	for i, p := range priorities {
		if r.Level >= p.from {
			return h[i].Handle(ctx, r)
		}
	}
	return h[len(h)-1].Handle(ctx, r)
}

func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return h.each(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

func (h journalHandler) WithGroup(name string) slog.Handler {
	return h.each(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (h journalHandler) each(f func(slog.Handler) slog.Handler) slog.Handler {
	var out journalHandler
	for i := range h {
		out[i] = f(h[i])
	}
	return out
}

// prefixer puts a text in front of each write, which is one line.
type prefixer struct {
	w      io.Writer
	prefix string
}

func (p prefixer) Write(b []byte) (int, error) {
	if _, err := p.w.Write(append([]byte(p.prefix), b...)); err != nil {
		return 0, err
	}
	return len(b), nil
}
