// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bytes"
	"log/slog"
	"testing"
)

// What a worker logs keeps its level and attributes on the way through the agent; what a tool writes is a line.
func TestRelay(t *testing.T) {
	for line, want := range map[string]string{
		`{"level":"WARN","msg":"odd","volume":"db","err":"x y"}`: "level=WARN msg=odd worker=7 err=\"x y\" volume=db\n",
		`{"level":"DEBUG","msg":"not said"}`:                     "",
		`{"msg":"no level"}`:                                     "level=INFO msg=\"no level\" worker=7\n",
		`mke2fs: no space`:                                       "level=INFO msg=\"mke2fs: no space\" worker=7\n",
		`{"a":1}`:                                                "level=INFO msg=\"{\\\"a\\\":1}\" worker=7\n",
		`{"msg":`:                                                "level=INFO msg=\"{\\\"msg\\\":\" worker=7\n",
	} {
		var b bytes.Buffer
		log := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		if relay(log.With("worker", 7), line); b.String() != want {
			t.Errorf("%s: %q, want %q", line, b.String(), want)
		}
	}
}
