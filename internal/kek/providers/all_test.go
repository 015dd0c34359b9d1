// SPDX-License-Identifier: Apache-2.0

package providers_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/file"
	"github.com/voluks/voluks/internal/kek/keydir"
	"github.com/voluks/voluks/internal/kek/providers"
)

// parse reads a configuration with one provider, once as the active one and once as a previous one.
func parse(t *testing.T, table string) (active, previous config.Config) {
	t.Helper()
	paths := config.PathsUnder(t.TempDir())
	active, err := config.Parse("config.toml", []byte("[kek]\n"+table), paths)
	if err != nil {
		t.Fatal(err)
	}
	previous, err = config.Parse("config.toml", []byte("[[previous]]\n"+table), paths)
	if err != nil {
		t.Fatal(err)
	}
	return active, previous
}

// Each provider is made of its settings, and its key has the name that its settings give it.
func TestEachProvider(t *testing.T) {
	for name, value := range map[string]string{"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_REGION": "", "CREDENTIALS_DIRECTORY": t.TempDir()} {
		t.Setenv(name, value)
	}
	write := func(name string, mode os.FileMode) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte("0123456789abcdef0123456789abcde\x80"), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key := filepath.Join(t.TempDir(), "key")
	keyRef, err := file.Generate(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "keys")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	dirRef, err := keydir.Init(keydir.Settings{Path: dir, TestOnlyVolatile: true})
	if err != nil {
		t.Fatal(err)
	}
	credential, err := os.ReadFile(write("x", 0o600))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(os.Getenv("CREDENTIALS_DIRECTORY"), "cred"), credential, 0o400); err != nil {
		t.Fatal(err)
	}
	tested := map[string]bool{}
	for _, tc := range []struct{ table, id string }{
		{"provider='file'\nfile.path='" + key + "'", keyRef.ID},
		{"provider='keydir'\nkeydir.path='" + dir + "'", dirRef.ID},
		{"provider='credential'\ncredential={path='/x', name='cred'}", "*"},
		{"provider='awskms'\nawskms.key_id='arn:aws:kms:eu-central-1:111122223333:key/1234abcd'", "1234abcd"},
		{"provider='vault'\nvault={address='https://v', key='k', mount='m', namespace='n', approle={role_id='r', secret_id_file='/s'}}", "n/m/k"},
		{"provider='vault'\nvault={address='unix:///agent', key='k'}", "transit/k"},
		{"provider='exec'\nexec={id='mine', command=['" + write("helper", 0o700) + "']}", "mine"},
	} {
		active, previous := parse(t, tc.table)
		for _, p := range []kek.Provider{providers.Open(active).Active, providers.Open(previous).Previous[0]} {
			if broken, ok := p.(*kek.Broken); ok {
				t.Errorf("%s: %v", tc.table, broken.Err)
				continue
			}
			if ref := p.Ref(); ref.Provider != active.KEK.Provider || ref.ID != tc.id && tc.id != "*" || ref.ID == "" {
				t.Errorf("%s: got %v", tc.table, ref)
			}
		}
		tested[active.KEK.Provider] = true
	}
	// Clevis needs its programs; that its settings arrive is seen from what is wrong with them, below.
	if all := reflect.TypeFor[config.KEK]().NumField() - 2; len(tested) != all-1 {
		t.Errorf("%d of %d providers were tested", len(tested), all)
	}
}

// What is wrong names the setting by its place in the file, wherever the provider stands.
func TestEachSettingIsNamed(t *testing.T) {
	for table, setting := range map[string]string{
		"provider='file'\nfile.path='/nonexistent'":                                                                     "file.path",
		"provider='keydir'\nkeydir.path='/nonexistent'":                                                                 "keydir.path",
		"provider='credential'\ncredential.path='/nonexistent'":                                                         "credential.path",
		"provider='credential'\ncredential={path='/x', name='a b'}":                                                     "credential.name",
		"provider='awskms'\nawskms.key_id='alias/x'":                                                                    "awskms.key_id",
		"provider='awskms'\nawskms={key_id='1234', endpoint='http://kms'}":                                              "awskms.endpoint",
		"provider='awskms'\nawskms={key_id='1234', region='r', profile='none'}":                                         "awskms.profile",
		"provider='vault'\nvault={address='https://v', key='k'}":                                                        "vault.token_file",
		"provider='vault'\nvault={address='https://v', key='k', token_file='/t', ca_file='/nonexistent'}":               "vault.ca_file",
		"provider='vault'\nvault={address='https://v', key='k', token_file='/t', client_cert_file='/c'}":                "vault.client_key_file",
		"provider='vault'\nvault={address='https://v', key='k', token_file='/t', mount='a b'}":                          "vault.mount",
		"provider='clevis'\nclevis={pin='tang', policy='{}'}":                                                           "clevis.policy",
		"provider='clevis'\nclevis={pin='null', policy='{}'}":                                                           "clevis.pin",
		"provider='exec'\nexec={id='x', command=['/nonexistent']}":                                                      "exec.command",
		"provider='exec'\nexec={id=\"x\\u0007\", command=['/bin/true']}":                                                "exec.id",
		"provider='vault'\nvault={address='https://v', key='k', token_file='/t', namespace='a b'}":                      "vault.namespace",
		"provider='vault'\nvault={address='https://v', key='k', approle={role_id='r', secret_id_file='/s', mount='/'}}": "vault.approle.mount",
	} {
		t.Setenv("AWS_REGION", "eu-central-1")
		t.Setenv("CREDENTIALS_DIRECTORY", "")
		active, previous := parse(t, table)
		for at, p := range map[string]kek.Provider{"kek.": providers.Open(active).Active, "previous[0].": providers.Open(previous).Previous[0]} {
			broken, ok := p.(*kek.Broken)
			if !ok {
				t.Errorf("%s: no error", table)
				continue
			}
			var config *kek.ConfigError
			if !errors.As(broken.Err, &config) || config.Setting != at+setting || strings.Count(broken.Err.Error(), at+setting) != 1 {
				t.Errorf("%s: got %v, want %s to be named once", table, broken.Err, at+setting)
			}
		}
	}
}
