// SPDX-License-Identifier: Apache-2.0

package config

import (
	"reflect"
	"testing"
)

// Laws: an error comes with an empty Config; what is accepted is written and read back the same.
func FuzzParse(f *testing.F) {
	f.Add(Example())
	f.Add([]byte("recovery = 'none'\n[[previous]]\nprovider='file'\nfile.path='/a'"))
	f.Add([]byte("recovery = {recipients=['" + recipientA + "'], confirmed=true}\n[remove]\nkeep='0'"))
	f.Add([]byte("kek = {provider='file', file={path='/k'}}\n[rotation]\nmax_age='1d1h'"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := Parse("f", data, DefaultPaths())
		if err != nil {
			if !reflect.DeepEqual(cfg, Config{}) {
				t.Fatalf("error %v and configuration %+v", err, cfg)
			}
			return
		}
		again, err := Parse("f", cfg.Render(), DefaultPaths())
		if err != nil {
			t.Fatalf("written, not read back: %v\n%s", err, cfg.Render())
		}
		if len(cfg.Recovery.Recipients) == 0 { // nil or empty: an empty list is only possible without a table
			cfg.Recovery.Recipients = nil
		}
		if !reflect.DeepEqual(again, cfg) {
			t.Fatalf("got %+v, want %+v", again, cfg)
		}
	})
}
