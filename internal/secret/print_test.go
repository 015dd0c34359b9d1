// SPDX-License-Identifier: Apache-2.0

package secret

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

type public struct {
	Name string
	Key  *Key
}

type private struct {
	name string
	key  *Key
}

type embedded struct{ *Key }

// F41: whatever holds a key, and whoever prints it, its bytes do not come out, in any notation.
func TestNothingPrintsAKey(t *testing.T) {
	k := key(t, sample)
	holders := map[string]any{
		"key": k, "value": reflect.ValueOf(k).Elem().Interface(), "public": public{"n", k}, "public pointer": &public{"n", k},
		"private": private{"n", k}, "private pointer": &private{"n", k}, "embedded": embedded{k}, "slice": []*Key{k}, "array": [1]*Key{k},
		"map": map[string]*Key{"k": k}, "map key": map[*Key]int{k: 1}, "any": []any{k}, "pointer to pointer": &k, "error": fmt.Errorf("with %v", k),
		"nested": struct{ A struct{ b []private } }{struct{ b []private }{[]private{{"n", k}}}},
	}
	for name, v := range holders {
		t.Run(name, func(t *testing.T) {
			for how, out := range everyWay(v) {
				assertClean(t, how, out)
			}
		})
	}
}

func everyWay(v any) map[string]string {
	out := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%o", "%b", "%c", "%U", "%p", "%T", "%t", "%e", "%100v", "%w"} {
		out[verb] = fmt.Sprintf(verb, v)
	}
	out["Sprint"] = fmt.Sprint(v)
	out["Errorf"] = fmt.Errorf("%v: %w", v, errors.New("x")).Error()

	var b bytes.Buffer
	log.New(&b, "", 0).Println(v)
	slog.New(slog.NewTextHandler(&b, nil)).Info("m", "v", v)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "v", v, slog.Any("g", slog.GroupValue(slog.Any("v", v))))
	out["log"] = b.String()

	j, err := json.Marshal(v)
	out["json"] = string(j) + fmt.Sprint(err)
	x, err := xml.Marshal(v)
	out["xml"] = string(x) + fmt.Sprint(err)
	if _, ok := v.(**Key); !ok { // gob itself crashes on a pointer to a pointer
		var g bytes.Buffer
		err = gob.NewEncoder(&g).Encode(v)
		out["gob"] = g.String() + fmt.Sprint(err)
	}
	var w strings.Builder
	walk(&w, reflect.ValueOf(v), 0)
	out["reflection"] = w.String()
	return out
}

// walk prints like the tools that follow everything, unexported fields included.
func walk(w *strings.Builder, v reflect.Value, depth int) {
	if depth > 12 {
		return
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		walk(w, v.Elem(), depth+1)
	case reflect.Struct:
		for i := range v.NumField() {
			walk(w, v.Field(i), depth+1)
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			for i := range v.Len() {
				w.WriteByte(byte(v.Index(i).Uint()))
			}
			return
		}
		for i := range v.Len() {
			walk(w, v.Index(i), depth+1)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			walk(w, k, depth+1)
			walk(w, v.MapIndex(k), depth+1)
		}
	case reflect.Invalid, reflect.Func, reflect.Chan, reflect.UnsafePointer:
	default:
		fmt.Fprint(w, v)
	}
}

func assertClean(t *testing.T, how, out string) {
	t.Helper()
	part := []byte(sample[:12])
	var decimal strings.Builder
	for i, c := range part {
		if i > 0 {
			decimal.WriteByte(' ')
		}
		fmt.Fprintf(&decimal, "%d", c)
	}
	for _, leak := range []string{
		string(part), hex.EncodeToString(part), strings.ToUpper(hex.EncodeToString(part)), fmt.Sprintf("% x", part), decimal.String(),
		strings.ReplaceAll(decimal.String(), " ", ","), base64.StdEncoding.EncodeToString(part), fmt.Sprintf("%#v", part)[7:40],
	} {
		if strings.Contains(out, leak) {
			t.Errorf("%s shows the key: %.300q", how, out)
		}
	}
}

// The control: the search above finds the bytes where a holder does not protect them.
func TestSearchFindsABareSlice(t *testing.T) {
	type bare struct{ b []byte }
	found := 0
	for _, out := range everyWay(bare{[]byte(sample)}) {
		probe := &testing.T{}
		assertClean(probe, "", out)
		if probe.Failed() {
			found++
		}
	}
	if found < 5 {
		t.Errorf("only %d ways of printing show an unprotected slice", found)
	}
}

func TestEncodersRefuse(t *testing.T) {
	k := key(t, sample)
	if _, err := json.Marshal(public{"n", k}); !errors.Is(err, ErrUnprintable) {
		t.Errorf("json: %v", err)
	}
	if _, err := xml.Marshal(public{"n", k}); !errors.Is(err, ErrUnprintable) {
		t.Errorf("xml: %v", err)
	}
	if _, err := k.MarshalBinary(); !errors.Is(err, ErrUnprintable) {
		t.Errorf("binary: %v", err)
	}
	if s := fmt.Sprintf("%v %+v %#v %s %x", k, k, k, k, k); s != "[key] [key] [key] [key] [key]" {
		t.Errorf("printed %q", s)
	}
	if k.String() != "[key]" || k.GoString() != "[key]" || k.LogValue().String() != "[key]" {
		t.Error("does not print as [key]")
	}
}
