// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/kek/kektest/fakekms"
)

// Whatever is wrong with a key provider is one error that names the setting, whether it is seen in the file, on this node, or by asking. That clevis or a
// pin is not installed, the tests of its package show.
func TestBadKeyProviders(t *testing.T) {
	n := newNode(t)
	kms := httptest.NewServer(fakekms.New())
	t.Cleanup(kms.Close)
	denies := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, `{"errors":["permission denied"]}`)
	})
	vault := httptest.NewServer(denies)
	t.Cleanup(vault.Close)
	untrusted := httptest.NewUnstartedServer(denies)
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "", "AWS_DEFAULT_REGION": "",
		"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
	} {
		t.Setenv(name, value)
	}
	put := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(n.root, name)
		if err := errors.Join(os.WriteFile(path, []byte(content), mode), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	token := put("token", "s.expired\n", 0o600)
	file := func(name, content string, mode os.FileMode) string {
		return "provider='file'\nfile.path='" + put(name, content, mode) + "'"
	}
	helper := func(name, script string) string {
		return "provider='exec'\ntimeout='1s'\nexec={id='x', command=['" + put(name, "#!/bin/sh\n"+script+"\n", 0o700) + "']}"
	}
	const unwraps31 = `case $(cat) in *'"wrap":'*) echo '{"plaintext":"` + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZQ==" + `"}' ;; *) echo '{"wrap":"QUJD"}' ;; esac`
	for name, c := range map[string]struct {
		table, setting string
		status         int
	}{
		"two active providers":            {"provider='vault'\nvault={address='https://v', key='k', token_file='/t'}\nawskms.key_id='x'", "kek.awskms", exitConfig},
		"an unknown provider":             {"provider='vualt'", "kek.provider", exitConfig},
		"settings of another":             {"provider='file'\nvault.key='k'", "kek.vault", exitConfig},
		"a key of 31 bytes":               {file("31", "\x8023456789abcdef0123456789abcdef"[:31], 0o600), "kek.file.path", exitConfig},
		"a key file for others":           {file("open", "\x80123456789abcdef0123456789abcde\xff", 0o644), "kek.file.path", exitConfig},
		"a KMS key that is not there":     {"provider='awskms'\nawskms={key_id='arn:aws:kms:eu-central-1:111122223333:key/00000000-0000-0000-0000-000000000000', endpoint='" + kms.URL + "'}", "kek.awskms.key_id", exitLocked},
		"no region":                       {"provider='awskms'\nawskms.key_id='1234abcd-12ab-34cd-56ef-1234567890ab'", "kek.awskms.region", exitConfig},
		"an expired token":                {"provider='vault'\nvault={address='" + vault.URL + "', key='k', token_file='" + token + "'}", "kek.vault.token_file", exitLocked},
		"a certificate that is not known": {"provider='vault'\nvault={address='" + untrusted.URL + "', key='k', token_file='" + token + "'}", "kek.vault.ca_file", exitConfig},
		"a helper that prints rubbish":    {helper("rubbish", "echo hello"), "kek.exec.command", exitConfig},
		"a helper that hangs":             {helper("hangs", "exec sleep 600"), "kek.exec.command", exitLocked},
		"a helper that floods":            {helper("floods", "exec cat /dev/zero"), "kek.exec.command", exitConfig},
		"a helper that exits 1":           {helper("exits", "exit 1"), "kek.exec.command", exitLocked},
		"an unwrap of 31 bytes":           {helper("unwraps", unwraps31), "kek.exec.command", exitConfig},
	} {
		put("etc/voluks/config.toml", "recovery = \"none\"\n[kek]\n"+c.table+"\n", 0o600)
		out, err := n.command("kek", "test").CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != c.status {
			t.Errorf("%s: %v, want exit status %d", name, err, c.status)
		}
		if said := string(out); strings.Count(said, "error: ") != 1 || strings.Count(said, c.setting+": ") != 1 || strings.Contains(said, "QUJD") {
			t.Errorf("%s: %s", name, out)
		}
	}
}
