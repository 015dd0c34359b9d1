// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"
	"testing"
)

func TestNormalize(t *testing.T) {
	app := newApp(newEnv())
	for _, test := range []struct{ line, want string }{
		{"volume rm db --force", "volume rm --force -- db"},
		{"volume rm --force db", "volume rm --force -- db"},
		{"volume rm a --force b", "volume rm --force -- a b"},
		{"volume create db --size 10G --opt uid=1 -o gid=2", "volume create --size 10G --opt uid=1 -o gid=2 -- db"},
		{"volume create db --size=10G", "volume create --size=10G -- db"},
		{"volume create db --size -1G", "volume create --size -1G -- db"},
		{"volume create -size 1G db", "volume create -size 1G -- db"},
		{"volume ls --format json", "--format json volume ls"},
		{"--root /x volume --verbose ls --format=json", "--root /x --verbose --format=json volume ls"},
		{"volume inspect -- --format", "volume inspect -- --format"},
		{"volume rm -- --force", "volume rm -- --force"},
		{"volume inspect -", "volume inspect -- -"},
		{"volume inspect ''", "volume inspect -- "},
		{"help volume rm", "volume rm --help"},
		{"help", "--help"},
		{"--format json volume help rm", "--format json volume rm --help"},
		{"volume rm x --help --nonsense", "volume rm --help"},
		{"volume -h", "volume --help"},
		{"init --recovery-recipient a --recovery-recipient b", "init --recovery-recipient a --recovery-recipient b"},
		{"volume create --opt size=--help db", "volume create --opt size=--help -- db"},
		{"volume create --size --help db", "volume create --size --help -- db"},
		{"worker", "worker"},
		{"volume", "volume"},
		{"", ""},
	} {
		words := strings.Fields(test.line)
		for i, w := range words {
			words[i] = strings.Trim(w, "'")
		}
		got, err := normalize(app, words)
		if err != nil {
			t.Errorf("%q: %v", test.line, err)
			continue
		}
		if joined := strings.Join(got[1:], " "); joined != test.want || got[0] != "voluks" {
			t.Errorf("%q: got %q, want %q", test.line, joined, test.want)
		}
	}
}

// Nothing is ignored: what is not understood is refused, with the nearest word that would be.
func TestNormalizeRefuses(t *testing.T) {
	app := newApp(newEnv())
	for _, test := range []struct{ line, command, text string }{
		{"volum ls", "voluks", `unknown command "volum"; did you mean "volume"?`},
		{"volume list", "voluks volume", `unknown command "volume list"; there are create, ls, inspect, mount, umount, grow, trim, migrate, import, rm`},
		{"volume unmount db", "voluks volume", `unknown command "volume unmount"; did you mean "umount"?`},
		{"keyslots ls db", "voluks", `unknown command "keyslots"; did you mean "keyslot"?`},
		{"volume rm db --farce", "voluks volume rm", `unknown flag --farce; did you mean "--force"?`},
		{"volume rm db -f", "voluks volume rm", `unknown flag -f; there are`},
		{"volume rm db --secret=hunter2", "voluks volume rm", `unknown flag --secret;`},
		{"volume --force rm db", "voluks volume", `unknown flag --force`},
		{"volume create db --size", "voluks volume create", "--size needs a value"},
		{"volume create db --size 1G --size 2G", "voluks volume create", "--size is there twice"},
		{"volume ls --format json --format text", "voluks volume ls", "--format is there twice"},
		{"-- volume ls", "voluks", `unknown flag --`},
		{"-x", "voluks", "unknown flag -x"},
	} {
		_, err := normalize(app, strings.Fields(test.line))
		var usage *usageError
		if !errors.As(err, &usage) || usage.command != test.command || !strings.HasPrefix(usage.text, test.text) {
			t.Errorf("%q: got %#v, want %q about %q", test.line, err, test.text, test.command)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: the value is repeated: %v", test.line, err)
		}
	}
}

func FuzzNormalize(f *testing.F) {
	f.Add("volume rm db --force")
	f.Add("--format json volume create -o a=b x -- -y")
	app := newApp(newEnv())
	f.Fuzz(func(t *testing.T, line string) {
		words := strings.Split(line, " ")
		got, err := normalize(app, words)
		if err != nil {
			return
		}
		// The order is one that normalize itself leaves alone, so nothing moves between flag, value and argument.
		again, err := normalize(app, got[1:])
		if err != nil || strings.Join(again, " ") != strings.Join(got, " ") {
			t.Errorf("%q: %q, and then %q, %v", line, got, again, err)
		}
	})
}
