// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"reflect"
	"strings"
	"testing"
)

// What the rendered file shows commented out is right once the signs are taken away, and is read back from what is rendered of it.
func TestProviders(t *testing.T) {
	_, text, _ := strings.Cut(otherProviders, "\n")
	blocks := strings.Split(text, "\n\n")
	var seen []string
	for _, block := range blocks {
		text := "[kek]\n" + block
		cfg, err := parse(t, text)
		if err != nil {
			t.Errorf("%v\n%s", err, text)
			continue
		}
		seen = append(seen, cfg.KEK.Provider)
		value := reflect.ValueOf(cfg.KEK)
		for i := range value.NumField() {
			if value.Field(i).Kind() != reflect.Pointer {
				continue
			}
			selected := strings.EqualFold(value.Type().Field(i).Name, cfg.KEK.Provider)
			if value.Field(i).IsNil() == selected {
				t.Errorf("%s: %s is set: %t", cfg.KEK.Provider, value.Type().Field(i).Name, !selected)
			}
			if selected {
				everySetting(t, cfg.KEK.Provider, value.Field(i).Elem())
			}
		}
		again, err := Parse("again", cfg.Render(), DefaultPaths())
		if err != nil || !reflect.DeepEqual(again, cfg) {
			t.Errorf("%s: read back %+v, %v from\n%s", cfg.KEK.Provider, again.KEK, err, cfg.Render())
		}
		previous := Default(DefaultPaths())
		previous.Previous = []KEK{cfg.KEK}
		again, err = Parse("previous", previous.Render(), DefaultPaths())
		if err != nil || !reflect.DeepEqual(again, previous) {
			t.Errorf("%s: read back %+v, %v from\n%s", cfg.KEK.Provider, again.Previous, err, previous.Render())
		}
	}
	for _, name := range providers() {
		if name != "file" && !strings.Contains(strings.Join(seen, " "), name) {
			t.Errorf("%s is not shown", name)
		}
	}
}

// everySetting fails the test if the example leaves one out.
func everySetting(t *testing.T, name string, settings reflect.Value) {
	t.Helper()
	for i := range settings.NumField() {
		if settings.Field(i).IsZero() {
			t.Errorf("the example of %s does not set %s", name, settings.Type().Field(i).Tag.Get("toml"))
		} else if settings.Field(i).Kind() == reflect.Struct {
			everySetting(t, name, settings.Field(i))
		}
	}
}

func TestDefaultsOfProviders(t *testing.T) {
	cfg, err := parse(t, "kek.provider = 'credential'")
	if err != nil || cfg.KEK.Credential.Path != "/etc/credstore.encrypted/voluks-kek" {
		t.Errorf("%+v, %v", cfg.KEK.Credential, err)
	}
	if cfg.KEK.File != nil {
		t.Error("the settings of a provider that is not selected are set")
	}
}

// F40: settings that are wrong are told before anything depends on them, each with its line.
func TestErrorsOfProviders(t *testing.T) {
	for name, test := range map[string]struct{ text, want string }{
		"two providers": {"[kek]\nprovider='vault'\n[kek.vault]\naddress='https://v'\nkey='k'\n[kek.awskms]\nkey_id='x'",
			`config.toml:6: kek.awskms: are settings of a provider that is not selected: kek.provider is "vault"`},
		"settings, no provider":   {"[kek.vault]\naddress='https://v'", `config.toml:1: kek.vault: are settings of a provider that is not selected: kek.provider is "file"`},
		"of another, in previous": {"[[previous]]\nprovider='exec'\nexec.id='x'\nexec.command=['/x']\n[previous.vault]\nkey='k'", `config.toml:5: previous[0].vault: are settings of a provider that is not selected`},
		"credential in previous":  {"[[previous]]\nprovider='credential'", `config.toml:1: previous[0].credential.path: is missing`},
		"keydir":                  {"[kek]\nprovider='keydir'", `config.toml:1: kek.keydir.path: is missing`},
		"awskms":                  {"[kek]\nprovider='awskms'\nawskms.region='eu-central-1'", `config.toml:1: kek.awskms.key_id: is missing`},
		"vault":                   {"[kek]\nprovider='vault'\nvault.address='https://v'", `config.toml:1: kek.vault.key: is missing`},
		"vault w/o address":       {"[kek]\nprovider='vault'\nvault.key='k'", `config.toml:1: kek.vault.address: is missing`},
		"vault token":             {"[kek]\nprovider='vault'\n[kek.vault]\naddress='https://v'\nkey='k'\ntoken='hvs.secret'", `config.toml:6: kek.vault.token: unknown key`},
		"vault token file":        {"[kek]\nprovider='vault'\n[kek.vault]\naddress='https://v'\nkey='k'\ntoken_file='token'", `config.toml:6: kek.vault.token_file: "token" is not an absolute path`},
		"approle without role":    {"[kek]\nprovider='vault'\n[kek.vault]\naddress='https://v'\nkey='k'\napprole.secret_id_file='/s'", `kek.vault.approle.role_id: is missing`},
		"approle, secret id":      {"[kek]\nprovider='vault'\n[kek.vault]\naddress='https://v'\nkey='k'\napprole={role_id='r', secret_id='s'}", `kek.vault.approle.secret_id: unknown key; known here: mount, role_id, secret_id_file`},
		"clevis":                  {"[kek]\nprovider='clevis'\nclevis.pin='tang'", `kek.clevis.policy: is missing`},
		"clevis, policy a table":  {"[kek]\nprovider='clevis'\nclevis.pin='tang'\nclevis.policy={url='http://t'}", `kek.clevis.policy: must be a string in quotes`},
		"exec":                    {"[kek]\nprovider='exec'\nexec.id='x'", `kek.exec.command: is missing`},
		"exec, empty list":        {"[kek]\nprovider='exec'\nexec.id='x'\nexec.command=[]", `kek.exec.command: is missing`},
		"exec, a string":          {"[kek]\nprovider='exec'\nexec.id='x'\nexec.command='/x'", `kek.exec.command: must be a list of strings`},
		"exec, relative":          {"[kek]\nprovider='exec'\nexec.id='x'\nexec.command=['x']", `"x" is not the absolute path of a program`},
		"exec without id":         {"[kek]\nprovider='exec'\nexec.command=['/x']", `kek.exec.id: is missing`},
		"the same key twice":      {"kek={provider='exec', exec={id='x', command=['/x']}}\n[[previous]]\nprovider='exec'\nexec={id='x', command=['/x']}", `previous[0]: is the same key as the one in [kek]`},
	} {
		_, err := parse(t, test.text)
		var typed *Error
		if !errors.As(err, &typed) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got %v, want %q", name, err, test.want)
		}
		if err != nil && strings.Contains(err.Error(), "hvs.") {
			t.Errorf("%s: %v shows a token", name, err)
		}
	}
}
