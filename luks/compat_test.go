// SPDX-License-Identifier: Apache-2.0

package luks

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"testing"

	"github.com/voluks/voluks/luks/header"
)

var update = flag.Bool("update", false, "write header/testdata/voluks-v1 anew")

const committed = "header/testdata/voluks-v1"

// What Format and AddSlot write now is what they wrote when voluks was first made, but for what is random: nobody changes the format unawares. With -update
// the header is written for the tests of package header; a deliberate change gets a new name and keeps the old file.
func TestFormatIsStable(t *testing.T) {
	key, other := randomKey(t), randomKey(t)
	c := formatted(t, key)
	must(t, c.AddSlot(Auth{agent, key}, recovery, other, KDFRandomKey))
	must(t, setToken(c, 0, `{"type":"voluks-agent","keyslots":["31"],"v":1}`))
	must(t, setToken(c, 1, `{"type":"voluks-recovery","keyslots":["30"],"v":1}`))
	must(t, setToken(c, 2, `{"type":"voluks-volume","keyslots":[],"v":1}`))
	must(t, c.SetFlags(Flags{Discards: true}))
	h := mustHeader(t, c)

	if *update {
		var packed bytes.Buffer
		z, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
		must(t, err)
		_, err = z.Write(h.Raw)
		must(t, err)
		must(t, z.Close())
		must(t, os.WriteFile(committed+".hdr.gz", packed.Bytes(), 0o644))
		must(t, os.WriteFile(committed+".json", []byte(mustCLI(t, nil, "luksDump", "--dump-json-metadata", c.Path())+"\n"), 0o644))
	}
	want, err := os.ReadFile(committed + ".json")
	must(t, err)
	if a, b := withoutRandom(t, want), withoutRandom(t, h.JSON); !reflect.DeepEqual(a, b) {
		t.Errorf("the format changed from\n%v\nto\n%v", a, b)
	}
	must(t, h.Strict(header.Expect{UUID: testUUID}))
}

// withoutRandom decodes metadata and takes salts and digests out.
func withoutRandom(t *testing.T, text []byte) any {
	t.Helper()
	var v any
	must(t, json.Unmarshal(text, &v))
	var clean func(any)
	clean = func(v any) {
		if m, ok := v.(map[string]any); ok {
			delete(m, "salt")
			if _, isText := m["digest"].(string); isText {
				delete(m, "digest")
			}
			for _, member := range m {
				clean(member)
			}
		}
	}
	clean(v)
	return v
}
