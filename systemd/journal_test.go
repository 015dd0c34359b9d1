// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"strings"
	"testing"

	"github.com/coreos/go-systemd/v22/journal"

	"github.com/voluks/voluks/internal/secret"
)

type sent struct {
	message  string
	priority journal.Priority
	fields   map[string]string
}

func recorder(level slog.Level) (*slog.Logger, *[]sent, *bytes.Buffer, *error) {
	var all []sent
	var fail error
	var text bytes.Buffer
	h := &journalHandler{level: level, otherwise: slog.NewTextHandler(&text, nil), send: func(m string, p journal.Priority, f map[string]string) error {
		all = append(all, sent{m, p, f})
		return fail
	}}
	return slog.New(h), &all, &text, &fail
}

func TestJournalEntries(t *testing.T) {
	log, all, _, _ := recorder(slog.LevelInfo)
	log.Debug("not said")
	log.With("volume", "db", "operation", "50ede239").Info("mounted", "path", "/var/lib/voluks/mnt/db/data", "holder", "my holder")
	log.Error("no key was given", "error", errors.New("line 1\nline 2"), slog.Group("peer", "pid", 7))
	log.WithGroup("kek").Warn("odd", "set-ting", 1.5)
	log.Info("plain")
	want := []sent{
		{`mounted (volume=db path=/var/lib/voluks/mnt/db/data holder="my holder")`, journal.PriInfo,
			map[string]string{"VOLUKS_VOLUME": "db", "VOLUKS_OPERATION": "50ede239", "VOLUKS_PATH": "/var/lib/voluks/mnt/db/data", "VOLUKS_HOLDER": "my holder"}},
		{`no key was given: line 1; line 2 (peer.pid=7)`, journal.PriErr, map[string]string{"VOLUKS_ERROR": "line 1\nline 2", "VOLUKS_PEER_PID": "7"}},
		{`odd (kek.set-ting=1.5)`, journal.PriWarning, map[string]string{"VOLUKS_KEK_SET_TING": "1.5"}},
		{`plain`, journal.PriInfo, map[string]string{}},
	}
	if len(*all) != len(want) {
		t.Fatalf("%d entries: %v", len(*all), *all)
	}
	for i, w := range want {
		got := (*all)[i]
		w.fields["SYSLOG_IDENTIFIER"] = "voluks"
		if got.message != w.message || got.priority != w.priority || !maps.Equal(got.fields, w.fields) {
			t.Errorf("%d: %+v, want %+v", i, got, w)
		}
	}
}

// A key in a record shows itself as a key, in message and fields. F41
func TestJournalShowsNoKey(t *testing.T) {
	key, err := secret.Move([]byte("hunter2hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	log, all, _, _ := recorder(slog.LevelInfo)
	log.With("key", key).Info("x", "also", struct{ K *secret.Key }{key}, "error", fmt.Errorf("%v", key))
	if s := fmt.Sprint(*all); strings.Contains(s, "hunter2") || !strings.Contains(s, "[key]") {
		t.Error(s)
	}
}

// What the journal does not take is not lost.
func TestJournalAway(t *testing.T) {
	log, _, text, fail := recorder(slog.LevelInfo)
	*fail = errors.New("no journal")
	log.With("volume", "db").Info("mounted")
	if !strings.Contains(text.String(), "msg=mounted volume=db") {
		t.Errorf("%q", text.String())
	}
	if h := Journal(slog.LevelInfo, slog.DiscardHandler); h != nil {
		t.Error("standard error of a test is the journal?")
	}
}
