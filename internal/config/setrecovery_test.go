// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

// What a person wrote stays, and the outcome is the same configuration with another recovery.
func TestSetRecovery(t *testing.T) {
	p := DefaultPaths()
	to := Recovery{Recipients: []string{recipientB}, Confirmed: true, Drill: 90 * 24 * time.Hour}
	with := func(r Recovery) string { c := Default(p); c.Recovery = r; return string(c.Render()) }
	for name, test := range map[string]struct {
		file string
		kept []string // in this order
		gone []string
	}{
		"ours":      {with(Recovery{Recipients: []string{recipientA}, Confirmed: true, Drill: 180 * day}), []string{"[kek]", "[recovery]", recipientB, "[volumes]"}, []string{recipientA}},
		"none":      {with(Recovery{None: true}), []string{"[kek]", "[rotation]", "[recovery]"}, []string{"no recovery slot", `"none"`}},
		"not yet":   {with(Recovery{Drill: 180 * day}), []string{"[kek]", "[rotation]", "[recovery]"}, []string{"# [recovery]", "# recipients"}},
		"empty":     {"", []string{"[recovery]"}, nil},
		"a remark":  {"# mine\n[recovery]\n# ours, of 2026\nrecipients = [\n  \"" + recipientA + "\", # of Ann\n]\nconfirmed = false\n\n# sizes\n[volumes]\ndefault_size = \"1G\" # small\n", []string{"# mine", "[recovery]", recipientB, "# ours, of 2026", "# sizes", "[volumes]", "# small"}, []string{recipientA, "of Ann"}},
		"no end":    {"[recovery]\nrecipients = [\"" + recipientA + "\"]", []string{"[recovery]"}, []string{recipientA}},
		"dos":       {"[recovery]\r\nrecipients = [\"" + recipientA + "\"]\r\n[volumes]\r\n", []string{"[recovery]", "[volumes]"}, []string{recipientA}},
		"not asked": {"recovery = \"none\"\n", []string{"[recovery]"}, []string{"none"}},
	} {
		out, err := SetRecovery("f", []byte(test.file), p, to)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		was, err := Parse("f", []byte(test.file), p)
		if err != nil {
			t.Fatal(err)
		}
		was.Recovery = to
		if is, err := Parse("f", out, p); err != nil || !reflect.DeepEqual(is, was) {
			t.Errorf("%s: %+v, %v, want %+v", name, is, err, was)
		}
		rest := string(out)
		for _, part := range test.kept {
			_, after, found := strings.Cut(rest, part)
			if !found {
				t.Errorf("%s: %q is missing or elsewhere in\n%s", name, part, out)
			}
			rest = after
		}
		for _, part := range test.gone {
			if strings.Contains(string(out), part) {
				t.Errorf("%s: %q is still in\n%s", name, part, out)
			}
		}
		again, err := SetRecovery("f", out, p, to)
		if err != nil || string(again) != string(out) {
			t.Errorf("%s: a second time: %v\n%s", name, err, again)
		}
	}
	for name, file := range map[string]string{
		"inline": "recovery = { recipients = [\"" + recipientA + "\"], confirmed = true }\n",
		"dotted": "recovery.recipients = [\"" + recipientA + "\"]\n",
	} {
		if _, err := SetRecovery("f", []byte(file), p, to); !errors.Is(err, ErrByHand) || !strings.Contains(err.Error(), recipientB) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := SetRecovery("f", []byte("nonsense"), p, to); err == nil || errors.Is(err, ErrByHand) {
		t.Errorf("nonsense: %v", err)
	}
}
