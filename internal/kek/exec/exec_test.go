// SPDX-License-Identifier: Apache-2.0

package exec_test

import (
	"context"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/exec"
	"github.com/voluks/voluks/internal/testenv"
)

// The conformance suite runs against examples/kek-helper, from its own tests. Here are the helpers that are not as they should be.

func TestMain(m *testing.M) { testenv.Main(m) }

var binding = kek.Binding{VolumeUUID: "0b41f68c-4a4c-4d5e-9a4e-0f1d2c3b4a59", Role: "agent"}

func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "helper")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

func helper(t *testing.T, text string) kek.Provider {
	t.Helper()
	p, err := exec.New("kek.exec", config.Exec{Command: []string{script(t, text)}, ID: "one"})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// calls makes each call of a provider whose helper misbehaves whatever it is asked.
func calls(ctx context.Context, p kek.Provider) map[string]error {
	ref := p.Ref()
	w, _, _, generate := p.Generate(ctx, binding)
	w.Wipe()
	w, unwrap := p.Unwrap(ctx, binding, ref, []byte("wrap"))
	w.Wipe()
	_, _, rewrap := p.(kek.Rewrapper).Rewrap(ctx, binding, ref, []byte("wrap"))
	return map[string]error{"generate": generate, "unwrap": unwrap, "rewrap": rewrap}
}

// check fails the test unless err names the setting and is, or is not, one that may pass; and shows nothing that looks like a key.
func check(t *testing.T, what string, err error, mayPass bool) {
	t.Helper()
	var setting *kek.ConfigError
	if !errors.As(err, &setting) || setting.Setting != "kek.exec.command" {
		t.Errorf("%s: got %v, want kek.exec.command to be named", what, err)
	}
	if errors.Is(err, kek.ErrUnavailable) != mayPass {
		t.Errorf("%s: %v: may pass: %v, want %v", what, err, !mayPass, mayPass)
	}
	if err != nil && strings.Contains(err.Error(), secret[:12]) {
		t.Errorf("%s: %v shows a key", what, err)
	}
}

var secret = base64.StdEncoding.EncodeToString([]byte("a very secret key of 32 bytes !!"))

func TestMisbehaviour(t *testing.T) {
	for name, tc := range map[string]struct {
		script  string
		mayPass bool
	}{
		"rubbish":              {script: "echo hello"},
		"a key in rubbish":     {script: `echo '{"plaintext": ` + secret + `}'`},
		"nothing":              {script: ":"},
		"JSON of another kind": {script: `echo '["wrap"]'`},
		"an empty answer":      {script: "echo {}"},
		"two answers":          {script: `echo '{"plaintext":"` + secret + `"}{}'`},
		"flood":                {script: "exec cat /dev/zero"},
		"flood of complaints":  {script: "exec cat /dev/zero >&2"},
		"unknown error":        {script: `echo '{"error":"on fire"}'`},
		"exit 1":               {script: "exit 1", mayPass: true},
		"exit 1 with the key":  {script: "echo cannot use " + secret + " >&2; exit 1", mayPass: true},
		"killed":               {script: "kill -KILL $$", mayPass: true},
		"a wrap too long":      {script: `cat >/dev/null; printf '{"plaintext":"AAAA","wrap":"'; head -c 12000 /dev/zero | tr '\0' A; echo '"}'`},
	} {
		t.Run(name, func(t *testing.T) {
			for what, err := range calls(t.Context(), helper(t, tc.script)) {
				check(t, what, err, tc.mayPass)
			}
		})
	}
}

func TestHang(t *testing.T) {
	p := helper(t, "exec sleep 600")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	started := time.Now()
	for what, err := range calls(ctx, p) {
		check(t, what, err, true)
	}
	if took := time.Since(started); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestWrongLength(t *testing.T) {
	for _, n := range []int{0, 1, 31, 33, 64} {
		p := helper(t, `echo '{"plaintext":"`+base64.StdEncoding.EncodeToString(make([]byte, n))+`"}'`)
		w, err := p.Unwrap(t.Context(), binding, p.Ref(), []byte("wrap"))
		if w != nil || !errors.Is(err, kek.ErrWrongKey) {
			t.Errorf("%d bytes: %v, %v", n, w, err)
		}
		check(t, "unwrap", err, false)
	}
}

func TestErrorsOfTheProtocol(t *testing.T) {
	for code, want := range map[string]error{
		"unavailable": kek.ErrUnavailable, "denied": kek.ErrDenied, "disabled": kek.ErrDisabled, "not_found": kek.ErrNotFound,
		"not_mine": kek.ErrNotMine, "wrong_key": kek.ErrWrongKey, "unsupported": errors.ErrUnsupported,
	} {
		p := helper(t, `echo '{"error":"`+code+`","message":"of key\u001b[2J `+secret+`"}'`)
		for what, err := range calls(t.Context(), p) {
			if !errors.Is(err, want) || !strings.Contains(err.Error(), "of key [2J [hidden]") {
				t.Errorf("%s: %s: got %v", code, what, err)
			}
		}
	}
}

// F41: what the helper is given. Everybody can read its arguments.
func TestRequest(t *testing.T) {
	seen := filepath.Join(t.TempDir(), "seen")
	p := helper(t, `cat >`+seen+`; tr '\0' ' ' </proc/$$/cmdline >>`+seen+`; echo '{"wrap":"d3JhcA==","key_version":"7"}'`)
	w, wrap, ref, err := p.Generate(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Wipe()
	if string(wrap) != "wrap" || ref != (kek.Ref{Provider: "exec", ID: "one", Version: "7"}) {
		t.Errorf("got %q by %v", wrap, ref)
	}
	got, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	plaintext := base64.StdEncoding.EncodeToString(w.Bytes())
	want := `{"protocol":1,"operation":"wrap","volume":"0b41f68c-4a4c-4d5e-9a4e-0f1d2c3b4a59","role":"agent","key_id":"one","plaintext":"` + plaintext + `"}`
	request, cmdline, _ := strings.Cut(string(got), "}")
	if request+"}" != want {
		t.Errorf("request is %s", got)
	}
	if cmdline == "" || strings.Contains(cmdline, plaintext) {
		t.Errorf("command line is %q", cmdline)
	}
}

func TestBadSettings(t *testing.T) {
	good := script(t, "exit 0")
	open := script(t, "exit 0")
	if err := os.Chmod(open, 0o722); err != nil {
		t.Fatal(err)
	}
	data := script(t, "exit 0")
	if err := os.Chmod(data, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		command []string
		id      string
		setting string
	}{
		"no command":            {nil, "one", "command"},
		"relative":              {[]string{"helper"}, "one", "command"},
		"missing":               {[]string{"/nonexistent/helper"}, "one", "command"},
		"a directory":           {[]string{"/"}, "one", "command"},
		"not executable":        {[]string{data}, "one", "command"},
		"others can change it":  {[]string{open}, "one", "command"},
		"zero byte":             {[]string{good, "a\x00b"}, "one", "command"},
		"no id":                 {[]string{good}, "", "id"},
		"id with escapes":       {[]string{good}, "a\x1b[1m", "id"},
		"id that is a document": {[]string{good}, strings.Repeat("x", 200), "id"},
	} {
		_, err := exec.New("kek.exec", config.Exec{Command: tc.command, ID: tc.id})
		var setting *kek.ConfigError
		if !errors.As(err, &setting) || setting.Setting != "kek.exec."+tc.setting {
			t.Errorf("%s: %v", name, err)
		}
	}
}
