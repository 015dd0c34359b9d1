// SPDX-License-Identifier: Apache-2.0

package keysocket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/secret"
)

const table = `# comment
data UUID=0B41F68C-4a4c-4d5e-9a4e-0f1d2c3b4a59 %[1]s luks,headless
with\040blank /dev/sdb %[1]s
other /dev/sdc /etc/keys/other.key luks
typed /dev/sdd none luks
short /dev/sde
alone
odd STRANGE=1 %[1]s
`

// ask connects as a peer that calls its own end name, and returns what it reads, the log, and what Answer said.
func ask(t *testing.T, name string, change func(*Options)) (read, logged string, err error) {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "keys.sock")
	if err := os.WriteFile(filepath.Join(dir, "crypttab"), []byte(fmt.Sprintf(table, socket)), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var log bytes.Buffer
	o := Options{
		Crypttab: filepath.Join(dir, "crypttab"), Socket: socket, Owner: os.Getuid(), Log: slog.New(slog.NewTextHandler(&log, nil)),
		Unlock: func(_ context.Context, device, uuid string) (*secret.Key, error) {
			return secret.Move([]byte("S3CRET " + device + " " + uuid))
		},
	}
	if change != nil {
		change(&o)
	}
	answered := make(chan error, 1)
	go func() {
		conn, err := l.AcceptUnix()
		if err == nil {
			err = Answer(t.Context(), conn, o)
		}
		answered <- err
	}()
	var local *net.UnixAddr
	if name != "" {
		local = &net.UnixAddr{Name: name, Net: "unix"}
	}
	conn, err := net.DialUnix("unix", local, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	err = <-answered
	return string(got), log.String(), err
}

// peer is what systemd-cryptsetup calls its end.
func peer(t *testing.T, volume string) string {
	return fmt.Sprintf("@%x%d/cryptsetup/%s", os.Getpid(), len(t.Name()), volume)
}

func TestKeyForTheVolumeThatIsNamed(t *testing.T) {
	for volume, want := range map[string]string{
		"data":       "S3CRET /dev/disk/by-uuid/0b41f68c-4a4c-4d5e-9a4e-0f1d2c3b4a59 0b41f68c-4a4c-4d5e-9a4e-0f1d2c3b4a59",
		"with blank": "S3CRET /dev/sdb ",
	} {
		got, log, err := ask(t, peer(t, volume), nil)
		if got != want || err != nil {
			t.Errorf("%s: %q, %v", volume, got, err)
		}
		if !strings.Contains(log, "was given") || !strings.Contains(log, volume) || !strings.Contains(log, fmt.Sprintf("peer=%d", os.Getpid())) || strings.Contains(log, "S3CRET") {
			t.Errorf("%s: log %q", volume, log)
		}
	}
}

func TestNoKey(t *testing.T) {
	for name, test := range map[string]struct {
		peer   string
		change func(*Options)
		want   error
		text   string
	}{
		"no volume named":   {peer: "", want: ErrNoVolume},
		"name without slot": {peer: "@abc/other/data", want: ErrNoVolume},
		"two volumes":       {peer: "@abc/cryptsetup/data/x", want: ErrNoVolume},
		"not in crypttab":   {peer: peer(t, "nobody"), want: ErrNoLine},
		"no crypttab":       {peer: peer(t, "data"), change: func(o *Options) { o.Crypttab = "/nonexistent/crypttab" }, want: ErrNoLine},
		"another key file":  {peer: peer(t, "other"), want: ErrOther},
		"typed":             {peer: peer(t, "typed"), want: ErrOther},
		"no key file":       {peer: peer(t, "short"), want: ErrOther},
		"device of a kind":  {peer: peer(t, "odd"), text: "not understood"},
		"another user":      {peer: peer(t, "data"), change: func(o *Options) { o.Owner = os.Getuid() + 1 }, want: ErrNotRoot},
		"locked": {peer: peer(t, "data"), want: kek.ErrUnavailable, change: func(o *Options) {
			o.Unlock = func(context.Context, string, string) (*secret.Key, error) { return nil, kek.ErrUnavailable }
		}},
	} {
		got, log, err := ask(t, test.peer, test.change)
		if got != "" || err == nil || test.want != nil && !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: read %q, %v", name, got, err)
		}
		if !strings.Contains(log, "no key was given") {
			t.Errorf("%s: not logged: %q", name, log)
		}
	}
}

// The key is wiped once it is handed over.
func TestKeyIsWiped(t *testing.T) {
	var key *secret.Key
	_, _, err := ask(t, peer(t, "data"), func(o *Options) {
		unlock := o.Unlock
		o.Unlock = func(ctx context.Context, device, uuid string) (*secret.Key, error) {
			k, err := unlock(ctx, device, uuid)
			key = k
			return k, err
		}
	})
	if err != nil || key == nil || key.Len() != 0 {
		t.Errorf("%v, %v", err, key)
	}
}

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"a /dev/a":                 "[{a /dev/a  }]",
		"\n# x\n a  /dev/a - luks": "[{a /dev/a  luks}]",
		`a\134b /dev/a\040b key`:   `[{a\b /dev/a b key }]`,
		"a\nb /dev/b k o more\n":   "[{b /dev/b k o}]", // the first is not understood, and the others are
	} {
		if got := fmt.Sprint(parse(text)); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestDevice(t *testing.T) {
	for device, want := range map[string]string{
		"/dev/sda1": "/d/sda1x", "PARTUUID=ABCD-01": "/d/disk/by-partuuid/abcd-01", `LABEL="Data"`: "/d/disk/by-label/Data", "UUID=../x": "", "sda1": "", "": "", "UUID=": "",
	} {
		path, _, err := Line{Device: device}.device("/d")
		if device == "/dev/sda1" {
			want = device
		}
		if path != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", device, path, err)
		}
	}
}
