// SPDX-License-Identifier: Apache-2.0

package header_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/voluks/voluks/luks/header"
)

var update = flag.Bool("update", false, "write the fuzzing corpus anew")

// hostile is metadata that voluks could not have written. Field is what Strict complains about, or empty where Read already refuses.
func hostile(t testing.TB) map[string]struct{ text, field string } {
	set := func(path string, value any) string { return edit(t, metadata, path, value) }
	segment := `"encryption":"aes-xts-plain64","sector_size"`
	return map[string]struct{ text, field string }{
		// F48: what the data would be encrypted with
		"null cipher":           {set("segments.0.encryption", "cipher_null-ecb"), "segments.0.encryption"},
		"capi cipher":           {set("segments.0.encryption", "capi:cipher_null-ecb"), "segments.0.encryption"},
		"other mode":            {set("segments.0.encryption", "aes-ecb"), "segments.0.encryption"},
		"cipher with a NUL":     {swap(t, metadata, segment, `"encryption":"aes-xts-plain64\u0000x","sector_size"`), ""},
		"cipher twice":          {swap(t, metadata, segment, `"encryption":"cipher_null-ecb","encryption":"aes-xts-plain64","sector_size"`), ""},
		"cipher in two cases":   {swap(t, metadata, segment, `"encryption":"cipher_null-ecb","Encryption":"aes-xts-plain64","sector_size"`), ""},
		"cipher in other case":  {swap(t, metadata, segment, `"Encryption":"aes-xts-plain64","sector_size"`), ""},
		"folding letter":        {swap(t, metadata, `"sector_size":4096`, `"sector_size":4096,"ſector_size":512`), ""},
		"member with a NUL":     {swap(t, metadata, segment, `"encryption\u0000":"cipher_null-ecb",`+segment), ""},
		"escaped member":        {swap(t, metadata, segment, `"\u0065ncryption":"cipher_null-ecb",`+segment), ""},
		"segments twice":        {swap(t, metadata, `"digests":{"0"`, `"segments":{},"digests":{"0"`), ""},
		"null slot cipher":      {set("keyslots.31.area.encryption", "cipher_null-ecb"), "keyslots.31.area.encryption"},
		"no segment":            {edit(t, set("segments", map[string]any{}), "digests.0.segments", []string{}), "digests.0.segments"},
		"two segments":          {set("segments.1", map[string]any{"type": "linear", "offset": "33554432", "size": "dynamic"}), "segments"},
		"linear segment":        {set("segments.0", map[string]any{"type": "linear", "offset": "16777216", "size": "dynamic"}), "segments.0.encryption"},
		"shifted segment":       {set("segments.0.offset", "16781312"), "segments.0.offset"},
		"short segment":         {set("segments.0.size", "4096"), "segments.0.size"},
		"tweak":                 {set("segments.0.iv_tweak", "8"), "segments.0.iv_tweak"},
		"odd sector size":       {set("segments.0.sector_size", 2048), "segments.0.sector_size"},
		"integrity":             {set("segments.0.integrity", map[string]any{"type": "none"}), "segments.0.integrity"},
		"segment flag":          {set("segments.0.flags", []string{"backup-final"}), "segments.0.flags"},
		"unknown in segment":    {set("segments.0.opal", 1), "metadata"},
		"unknown at top":        {set("more", 1), "metadata"},
		"offset as number":      {set("segments.0.offset", 16777216), ""},
		"offset with zeros":     {set("segments.0.offset", "016777216"), ""},
		"negative offset":       {set("segments.0.offset", "-1"), ""},
		"offset past int64":     {set("segments.0.offset", "18446744073709551615"), ""},
		"sector size fraction":  {swap(t, metadata, `"sector_size":4096`, `"sector_size":4096.0`), ""},
		"sector size exponent":  {swap(t, metadata, `"sector_size":4096`, `"sector_size":4096e0`), ""},
		"segment id with zeros": {swap(t, metadata, `"segments":{"0"`, `"segments":{"00"`), ""},

		// CVE-2021-4122: re-encryption that nobody asked for; requirements that nobody knows
		"re-encryption":       {set("config.requirements.mandatory", []string{"online-reencrypt-v2"}), "config.requirements"},
		"unknown requirement": {set("config.requirements.mandatory", []string{"later"}), "config.requirements"},
		"other requirements":  {set("config.requirements.optional", []string{"later"}), "metadata"},
		"re-encryption slot": {set("keyslots.2", map[string]any{"type": "reencrypt", "key_size": 1, "mode": "reencrypt", "direction": "forward",
			"area": map[string]any{"type": "none", "offset": "4194304", "size": "4096"}}), "digests.0.keyslots"},
		"unknown flag":      {set("config.flags", []string{"no-journal"}), "config.flags"},
		"flags no array":    {set("config.flags", "allow-discards"), ""},
		"other area size":   {set("config.keyslots_size", "4096"), "config.keyslots_size"},
		"wrong json_size":   {set("config.json_size", "12288"), ""},
		"no config":         {set("config", nil), ""},
		"tokens no object":  {set("tokens", []int{}), ""},
		"token of nothing":  {set("tokens.0.keyslots", []string{"5"}), ""},
		"token without":     {set("tokens.0.keyslots", nil), ""},
		"token 32":          {set("tokens.32", map[string]any{"type": "x", "keyslots": []string{}}), ""},
		"token key twice":   {swap(t, metadata, `"Any":{`, `"Any":1,"Any":{`), ""},
		"slot 32":           {swap(t, swap(t, metadata, `"30":{`, `"32":{`), `"30",`, ""), ""},
		"deep":              {set("tokens.0.deep", deep(40)), ""},
		"deeper":            {strings.Replace(metadata, `"Any":{`, `"Deep":`+strings.Repeat("[", 20000)+strings.Repeat("]", 20000)+`,"Any":{`, 1), ""},
		"not UTF-8":         {swap(t, metadata, "voluks-agent", "voluks-\xff"), ""},
		"trailing comma":    {strings.TrimSuffix(metadata, "}") + ",}", ""},
		"comment":           {strings.Replace(metadata, `,"tokens"`, `/* */,"tokens"`, 1), ""},
		"single quotes":     {strings.ReplaceAll(metadata, `"`, `'`), ""},
		"text after":        {metadata + "x}", ""},
		"space before":      {" " + metadata, ""},
		"space after":       {metadata + " ", ""},
		"empty":             {"", ""},
		"empty object":      {"{}", ""},
		"null":              {"null", ""},
		"array":             {"[]", ""},
		"everything null":   {`{"keyslots":null,"tokens":null,"segments":null,"digests":null,"config":null}`, ""},
		"keyslot null":      {swap(t, metadata, `"tokens":{"0":{`, `"tokens":{"1":null,"0":{`), ""},
		"segment null":      {set("segments.0", "x"), ""},
		"no NUL":            {metadata[:len(metadata)-1] + `,"config":"` + strings.Repeat("x", 70000) + `"}`, ""},
		"token with NUL":    {swap(t, metadata, `"Any":{`, `"Any":"\u0000","Else":{`), ""},
		"no digest":         {set("digests", map[string]any{}), "digests"},
		"two digests":       {set("digests.1", map[string]any{"type": "pbkdf2", "keyslots": []string{"30"}, "segments": []string{}, "hash": "sha256", "iterations": 1000, "salt": "", "digest": ""}), "digests"},
		"long digest":       {set("digests.0.digest", strings.Repeat("AAAA", 32)), "digests.0.digest length"},
		"digest not base64": {set("digests.0.digest", "=A=="), ""},
		"weak digest":       {set("digests.0.iterations", 1), "digests.0.iterations"},
		"absurd digest":     {set("digests.0.iterations", 4000000000), "digests.0.iterations"},
		"digest hash":       {set("digests.0.hash", "md5"), "digests.0.hash"},
		"digest type":       {set("digests.0.type", "none"), "digests.0.digest length"},
		"slot not bound":    {set("digests.0.keyslots", []string{"31"}), "digests.0.keyslots"},
		"digest slot twice": {set("digests.0.keyslots", []string{"31", "31", "30"}), ""},

		// costs and sizes that would hurt or crash whoever opens the slot
		"time 0":               {argon2id(t, 0, 65536, 2), "keyslots.30.kdf.time"},
		"memory 4e9":           {argon2id(t, 4, 4000000000, 2), "keyslots.30.kdf"},
		"memory 0":             {argon2id(t, 4, 0, 2), "keyslots.30.kdf.memory"},
		"256 threads":          {argon2id(t, 4, 65536, 256), "keyslots.30.kdf.cpus"},
		"hours":                {argon2id(t, 10000, 4194304, 4), "keyslots.30.kdf"},
		"unknown KDF":          {set("keyslots.30.kdf.type", "scrypt"), ""},
		"no iterations":        {set("keyslots.30.kdf.iterations", 0), "keyslots.30.kdf.iterations"},
		"too many iterations":  {set("keyslots.30.kdf.iterations", 4000000000), "keyslots.30.kdf.iterations"},
		"iterations past int":  {set("keyslots.30.kdf.iterations", 1e30), ""},
		"huge salt":            {set("keyslots.30.kdf.salt", strings.Repeat("AAAA", 1000)), "keyslots.30.kdf.salt length"},
		"KDF hash":             {set("keyslots.30.kdf.hash", "crc32"), "keyslots.30.kdf.hash"},
		"AF hash":              {set("keyslots.30.af.hash", ""), "keyslots.30.af.hash"},
		"AF type":              {set("keyslots.30.af.type", "luks2"), "keyslots.30.af.type"},
		"stripes":              {set("keyslots.30.af.stripes", 1), "keyslots.30.af.stripes"},
		"key size":             {set("keyslots.30.key_size", 32), "keyslots.30.key_size"},
		"huge key size":        {set("keyslots.30.key_size", 1<<40), "keyslots.30.key_size"},
		"area key size":        {set("keyslots.30.area.key_size", 7), "keyslots.30.area.key_size"},
		"area type":            {set("keyslots.30.area.type", "none"), "keyslots.30.area.type"},
		"overlapping areas":    {set("keyslots.30.area.offset", "385024"), "keyslots.30.area"},
		"one area":             {set("keyslots.30.area.offset", "131072"), "keyslots.31.area"},
		"area in the metadata": {set("keyslots.31.area.offset", "126976"), "keyslots.31.area"},
		"area in the data":     {set("keyslots.31.area.offset", "16777216"), "keyslots.31.area"},
		"area past the data":   {set("keyslots.31.area.offset", "9223372036854771712"), "keyslots.31.area"},
		"area overflowing":     {set("keyslots.31.area.size", "9223372036854775807"), "keyslots.31.area"},
		"crooked area":         {set("keyslots.30.area.offset", "389121"), "keyslots.30.area"},
		"small area":           {set("keyslots.30.area.size", "4096"), "keyslots.30.area.size"},
		"empty area":           {set("keyslots.30.area.size", "0"), "keyslots.30.area.size"},
		"priority":             {set("keyslots.30.priority", 3), "keyslots.30.priority"},
		"no area":              {set("keyslots.30.area", nil), ""},
		"keyslot type":         {set("keyslots.30.type", "luks3"), "keyslots.30.type"},
	}
}

func argon2id(t testing.TB, time, memory, cpus int) string {
	return edit(t, metadata, "keyslots.30.kdf", map[string]any{"type": "argon2id", "time": time, "memory": memory, "cpus": cpus, "salt": "MDEyMzQ1Njc4OWFiY2RlZg=="})
}

func deep(n int) any {
	var v any = 1
	for range n {
		v = []any{v}
	}
	return v
}

// F48: whatever of this stands in a header with right checksums, it is refused for what it is.
func TestHostile(t *testing.T) {
	for name, test := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			h, err := read(pair(test.text))
			if test.field == "" {
				var damage *header.DamagedError
				if h != nil || !errors.As(err, &damage) || !damage.Lost() {
					t.Fatalf("read: %v, %v", h, err)
				}
				// Beside a good copy it must not pass for mere damage: libcryptsetup may be able to read it.
				for _, mixed := range [][]byte{
					append(firstHalf(test.text).bytes(), secondHalf(metadata).bytes()...),
					append(firstHalf(metadata).bytes(), secondHalf(test.text).bytes()...),
				} {
					var strict *header.StrictError
					if err := mustRead(t, mixed).Strict(header.Expect{}); !errors.As(err, &strict) || !strings.HasSuffix(strict.Field, "copy") {
						t.Errorf("beside a good copy: %v", err)
					}
				}
				return
			}
			if err != nil {
				t.Fatalf("read: %v", err)
			}
			complain(t, h, test.field)
		})
	}
	if *update {
		writeCorpus(t)
	}
	for name, test := range hostile(t) {
		got, err := os.ReadFile(corpusFile(name))
		if err != nil || !bytes.Equal(got, corpusEntry(test.text)) {
			t.Errorf("the corpus has no or another %q (%v): run with -update", name, err)
		}
	}
}

func complain(t *testing.T, h *header.Header, field string) {
	t.Helper()
	var strict *header.StrictError
	if err := h.Strict(header.Expect{}); !errors.As(err, &strict) || strict.Field != field {
		t.Errorf("strict: %v, want a complaint about %s", err, field)
	}
}

// F48: a copy that is older for us counts too, since another reader might find fault with the newer one.
func TestStrictLooksAtBothCopies(t *testing.T) {
	evil := edit(t, metadata, "segments.0.encryption", "cipher_null-ecb")
	old := secondHalf(evil)
	old.epoch = 1
	complain(t, mustRead(t, append(firstHalf(metadata).bytes(), old.bytes()...)), "segments.0.encryption")
	complain(t, mustRead(t, append(firstHalf(metadata).bytes(), secondHalf(evil).bytes()...)), "segments.0.encryption")
	young := secondHalf(metadata)
	young.epoch = 8
	complain(t, mustRead(t, append(firstHalf(evil).bytes(), young.bytes()...)), "segments.0.encryption")
}

// F48: what is forged in the binary header although its checksum is right.
func TestHostileBinaryHeader(t *testing.T) {
	tests := map[string]func(*half){
		"other algorithm":   func(c *half) { c.algorithm = "sha512" },
		"long algorithm":    func(c *half) { c.algorithm = strings.Repeat("a", 32) },
		"wrong place":       func(c *half) { c.offset = 4096 },
		"endless UUID":      func(c *half) { c.uuid = strings.Repeat("a", 40) },
		"UUID of no text":   func(c *half) { c.uuid = "\xff\xfe" },
		"bytes behind":      func(c *half) { c.padding = 1 },
		"blanks behind":     func(c *half) { c.padding = ' ' },
		"half of a header":  func(c *half) { c.json = c.json[:len(c.json)/2] },
		"another's magic":   func(c *half) { c.magic = "LUKS\xba\xbf" },
		"size of something": func(c *half) { c.size = 48 << 10; c.json = swap(t, c.json, `"61440"`, `"45056"`) },
	}
	for name, forge := range tests {
		t.Run(name, func(t *testing.T) {
			a, b := firstHalf(metadata), secondHalf(metadata)
			forge(&a)
			forge(&b)
			if h, err := read(append(a.bytes(), b.bytes()...)); err == nil {
				t.Errorf("read %+v", h)
			}
		})
	}
}

func TestStrictExpect(t *testing.T) {
	h := mustRead(t, pair(metadata))
	for field, e := range map[string]header.Expect{
		"uuid":                   {UUID: "0f6bd0a6-1a5c-4a49-9d15-6f8a3c5b2e12"},
		"segments.0.sector_size": {SectorSize: 512},
		"config.keyslots_size":   {DataOffset: 32 << 20},
		"metadata size":          {MetadataSize: 16 << 10},
		"segments.0.encryption":  {Cipher: "aes-xts-plain"},
		"keyslots.30.area.size":  {KeyBytes: 96},
	} {
		var strict *header.StrictError
		if err := h.Strict(e); !errors.As(err, &strict) || strict.Field != field {
			t.Errorf("%+v: %v, want a complaint about %s", e, err, field)
		}
	}
}

// A device that is shorter than the slots that the header tells of.
func TestStrictShortDevice(t *testing.T) {
	h, err := header.Read(disk{pair(metadata), 400000}, 400000)
	if err != nil {
		t.Fatal(err)
	}
	complain(t, h, "keyslots.30.area")
}

func corpusFile(name string) string {
	return filepath.Join("testdata/fuzz/FuzzMetadata", strings.ReplaceAll(name, " ", "-"))
}

func corpusEntry(text string) []byte {
	return fmt.Appendf(nil, "go test fuzz v1\nstring(%+q)\nstring(%+q)\n", clip(text), metadata)
}

// clip keeps the corpus small: what is long is long for a reason that the table test already covers.
func clip(text string) string { return text[:min(len(text), 4000)] }

func writeCorpus(t *testing.T) {
	if err := os.MkdirAll("testdata/fuzz/FuzzMetadata", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, test := range hostile(t) {
		if err := os.WriteFile(corpusFile(name), corpusEntry(test.text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}
