// SPDX-License-Identifier: Apache-2.0

package subprocess_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/kek/subprocess"
	"github.com/voluks/voluks/internal/kek/wire"
	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

func sh(t *testing.T, script string, stdin []byte) (*wire.Buffer, error) {
	t.Helper()
	return shell(t.Context(), script, stdin)
}

func shell(ctx context.Context, script string, stdin []byte) (*wire.Buffer, error) {
	return subprocess.Cmd{Argv: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}, Stdin: stdin, MaxOut: 64}.Run(ctx)
}

func TestAnswer(t *testing.T) {
	in := bytes.Repeat([]byte{0, 1, 0xff, '\n'}, 8)
	out, err := sh(t, "cat", in)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Wipe()
	if !bytes.Equal(out.Bytes(), in) {
		t.Errorf("got %x", out.Bytes())
	}
	key, err := out.Key(32)
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	if !bytes.Equal(key.Bytes(), in) {
		t.Errorf("the key differs from the answer")
	}
}

func TestKeyOfAnotherLength(t *testing.T) {
	for _, n := range []string{"0", "31", "33", "64"} {
		out, err := sh(t, "head -c "+n+" /dev/zero", nil)
		if err != nil {
			t.Fatal(n, err)
		}
		if key, err := out.Key(32); !errors.Is(err, secret.ErrLength) {
			t.Errorf("%s bytes: got %v, %v", n, key, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	for name, tc := range map[string]struct {
		script string
		want   error
	}{
		"one byte too many":         {"head -c 65 /dev/zero", subprocess.ErrFlood},
		"flood":                     {"exec cat /dev/zero", subprocess.ErrFlood},
		"flood of complaints":       {"exec cat /dev/zero >&2", subprocess.ErrFlood},
		"flood that ignores hangup": {"trap '' PIPE HUP TERM; while :; do echo xxxxxxxxxxxxxxxxx; done", subprocess.ErrFlood},
		"output left open":          {"setsid sleep 4 &", subprocess.ErrLeftOpen},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := sh(t, tc.script, nil)
			if !errors.Is(err, tc.want) {
				t.Errorf("got an answer: %v, %v; want %v", out != nil, err, tc.want)
			}
		})
	}
}

func TestLargeAnswerThatFits(t *testing.T) {
	out, err := sh(t, "head -c 64 /dev/zero", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Wipe()
	if len(out.Bytes()) != 64 {
		t.Errorf("got %d bytes", len(out.Bytes()))
	}
}

func TestExit(t *testing.T) {
	_, err := sh(t, `printf 'no such\nkey\033[31m \001: K1'; echo 'no such
key: K1' >&2; exit 3`, nil)
	var exit *subprocess.ExitError
	if !errors.As(err, &exit) || exit.Code != 3 || exit.Stderr != "no such key: K1" {
		t.Errorf("got %#v, %v", exit, err)
	}
	_, err = sh(t, "kill -SEGV $$", nil)
	if !errors.As(err, &exit) || exit.Signal != syscall.SIGSEGV {
		t.Errorf("got %#v, %v", exit, err)
	}
}

func TestMissing(t *testing.T) {
	_, err := subprocess.Cmd{Argv: []string{"/nonexistent/helper"}, MaxOut: 1}.Run(t.Context())
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// Whatever it started dies with it: nothing may go on waiting for a key server after the caller has given up.
func TestHang(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := shell(ctx, "sleep 600 & echo $! >"+mark+".new; mv "+mark+".new "+mark+"; wait", nil)
		done <- err
	}()
	var pid []byte
	for end := time.Now().Add(10 * time.Second); len(pid) == 0 && time.Now().Before(end); time.Sleep(time.Millisecond) {
		pid, _ = os.ReadFile(mark)
	}
	started := time.Now()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(started); took > time.Second {
		t.Errorf("took %v", took)
	}
	stat := func() string {
		b, _ := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		return string(b)
	}
	for end := time.Now().Add(10 * time.Second); stat() != "" && !strings.Contains(stat(), ") Z "); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the child of the program still runs: %s", stat())
		}
	}
}

func TestDeadlineSaysWhatItSaid(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := shell(ctx, "echo waiting for the moon >&2; exec sleep 600", nil)
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "waiting for the moon") {
		t.Errorf("got %v", err)
	}
}

// An input that nobody reads, and that no pipe can hold, is not an error.
func TestInputNotRead(t *testing.T) {
	out, err := sh(t, "echo ok", make([]byte, 1<<20))
	if err != nil {
		t.Fatal(err)
	}
	out.Wipe()
}

// F41
func TestComplaintHasNoKey(t *testing.T) {
	key := []byte("\x00\x01\x80\xfe0123456789abcdefghijklmnop\xff\xfe")
	for _, shown := range []string{
		string(key), hex.EncodeToString(key), strings.ToUpper(hex.EncodeToString(key)),
		base64.StdEncoding.EncodeToString(key), base64.RawURLEncoding.EncodeToString(key),
	} {
		for _, around := range []string{"%", "bad key: % (x)", `{"plaintext":"%"}`} {
			_, err := sh(t, "cat >&2; exit 1", []byte(strings.ReplaceAll(around, "%", shown)))
			if err == nil || strings.Contains(err.Error(), "456789") || strings.Contains(err.Error(), shown[4:16]) {
				t.Errorf("%q", err)
			}
		}
	}
}
