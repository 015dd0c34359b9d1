// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/voluks/voluks/internal/secret"
	"github.com/voluks/voluks/internal/testenv"
)

// person is a recovery identity with its recipient.
type person struct {
	text       *secret.Key
	recipient  Recipient
	identities []Identity
}

func newPerson(t *testing.T) person {
	t.Helper()
	text, recipient, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	return known(t, text, recipient)
}

func newPostQuantum(t *testing.T) person {
	t.Helper()
	identity, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	text, err := secret.Move([]byte(identity.String()))
	if err != nil {
		t.Fatal(err)
	}
	return known(t, text, identity.Recipient().String())
}

func known(t *testing.T, text *secret.Key, recipient string) person {
	t.Helper()
	t.Cleanup(text.Wipe)
	r, err := ParseRecipient(recipient)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := ParseIdentities(text)
	if err != nil {
		t.Fatal(err)
	}
	if len(ids) != 1 || ids[0].Recipient() != r && ids[0].Recipient().String() != r.String() {
		t.Fatalf("%d identities, of %v instead of %v", len(ids), ids, r.Fingerprint())
	}
	return person{text, r, ids}
}

func newKey(t *testing.T, n int) *secret.Key {
	t.Helper()
	key, err := secret.Random(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(key.Wipe)
	return key
}

func TestSealAndOpen(t *testing.T) {
	a, b, c := newPerson(t), newPerson(t), newPerson(t)
	key := newKey(t, KeySize)
	sealed, err := Seal(key, []Recipient{a.recipient, b.recipient})
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(sealed, string(key.Bytes())) {
		t.Error("the key is in clear")
	}
	for name, ids := range map[string][]Identity{"first": a.identities, "second": b.identities, "among others": append(c.identities, b.identities...)} {
		got, err := Open(sealed, ids)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !got.Equal(key) {
			t.Errorf("%s: opened to another key", name)
		}
		got.Wipe()
	}
	for name, ids := range map[string][]Identity{"other": c.identities, "none": nil} {
		if got, err := Open(sealed, ids); got != nil || !errors.Is(err, ErrWrongIdentity) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

// The size that the header has room for: an armored file for five post-quantum recipients.
func TestPostQuantum(t *testing.T) {
	key := newKey(t, KeySize)
	var to []Recipient
	people := []person{newPostQuantum(t), newPostQuantum(t), newPostQuantum(t), newPostQuantum(t), newPostQuantum(t)}
	for _, p := range people {
		if !p.recipient.PostQuantum() {
			t.Error("not known as post-quantum")
		}
		to = append(to, p.recipient)
	}
	sealed, err := Seal(key, to)
	if err != nil {
		t.Fatal(err)
	}
	if len(sealed) > 12<<10 {
		t.Errorf("%d bytes", len(sealed))
	}
	got, err := Open(sealed, people[4].identities)
	if err != nil || !got.Equal(key) {
		t.Errorf("%v", err)
	}
	got.Wipe()
	if _, err := Seal(key, []Recipient{to[0], newPerson(t).recipient}); err == nil {
		t.Error("sealed to a mixture")
	}
}

func TestOnlyKeys(t *testing.T) {
	p := newPerson(t)
	for _, n := range []int{1, 31, 33, 64} {
		if sealed, err := Seal(newKey(t, n), []Recipient{p.recipient}); sealed != "" || !errors.Is(err, secret.ErrLength) {
			t.Errorf("sealed %d bytes: %v", n, err)
		}
	}
	if _, err := Seal(newKey(t, KeySize), nil); !errors.Is(err, ErrNoRecipient) {
		t.Errorf("sealed to nobody: %v", err)
	}
	if _, err := Seal(newKey(t, KeySize), []Recipient{{}}); !errors.Is(err, ErrRecipient) {
		t.Errorf("sealed to the zero recipient: %v", err)
	}
	for _, n := range []int{0, 31, 33, 70000} {
		var out bytes.Buffer
		armored := armor.NewWriter(&out)
		w, err := age.Encrypt(armored, p.recipient.age)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Close(), armored.Close()); err != nil {
			t.Fatal(err)
		}
		if key, err := Open(out.String(), p.identities); key != nil || !errors.Is(err, ErrSealed) {
			t.Errorf("opened %d bytes: %v", n, err)
		}
	}
}

// F41: a changed, cut or extended text opens to nothing, or to the same key where age allows blanks
// around its armor.
func TestTampered(t *testing.T) {
	p := newPerson(t)
	key := newKey(t, KeySize)
	sealed, err := Seal(key, []Recipient{p.recipient})
	if err != nil {
		t.Fatal(err)
	}
	try := func(what, text string) {
		got, err := Open(text, p.identities)
		if err == nil && !got.Equal(key) {
			t.Errorf("%s: opened to another key", what)
		}
		if err == nil && strings.TrimSpace(text) != strings.TrimSpace(sealed) {
			t.Errorf("%s: opened", what)
		}
		if err != nil && !errors.Is(err, ErrSealed) && !errors.Is(err, ErrWrongIdentity) {
			t.Errorf("%s: %v", what, err)
		}
		got.Wipe()
	}
	for i := range sealed {
		changed := []byte(sealed)
		changed[i] ^= 1
		try(fmt.Sprintf("byte %d changed", i), string(changed))
		try(fmt.Sprintf("cut to %d bytes", i), sealed[:i])
	}
	try("twice", sealed+sealed)
	try("with something behind it", sealed+"x")
	try("empty", "")
	try("not armored", "age-encryption.org/v1\n-> X25519 a\n")
}

func TestRecipients(t *testing.T) {
	a, pq := newPerson(t), newPostQuantum(t)
	if n := len(a.recipient.Fingerprint()); n != 16 {
		t.Errorf("fingerprint of %d characters", n)
	}
	if got := Fingerprints([]Recipient{a.recipient, pq.recipient}); got[0] == got[1] || got[0] != a.recipient.Fingerprint() {
		t.Errorf("fingerprints %v", got)
	}
	if list, err := ParseRecipients(nil); err != nil || list != nil {
		t.Errorf("empty list: %v, %v", list, err)
	}
	text := a.recipient.String()
	lastWrong := text[:len(text)-1] + map[bool]string{true: "p", false: "q"}[text[len(text)-1] == 'q']
	for name, test := range map[string]struct {
		texts []string
		index int
		want  error
	}{
		"empty text": {[]string{""}, 0, ErrRecipient},
		"checksum":   {[]string{text, lastWrong}, 1, ErrRecipient},
		"upper case": {[]string{strings.ToUpper(text)}, 0, ErrRecipient},
		"blank":      {[]string{text + " "}, 0, ErrRecipient},
		"ssh":        {[]string{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJhI2PZ0oDmEr9BK3xcHRkU1fCkz2tq5mV5YHrGwuQQ3"}, 0, ErrRecipient},
		"low order":  {[]string{"age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z"}, 0, ErrRecipient},
		"identity":   {[]string{text, string(a.text.Bytes())}, 1, ErrIsIdentity},
		"twice":      {[]string{text, text}, 1, ErrTwice},
		"mixed":      {[]string{text, pq.recipient.String()}, 1, ErrMixed},
	} {
		list, err := ParseRecipients(test.texts)
		var typed *RecipientError
		if list != nil || !errors.As(err, &typed) || typed.Index != test.index || !errors.Is(err, test.want) {
			t.Errorf("%s: %v, %v", name, list, err)
		} else if strings.Contains(err.Error(), string(a.text.Bytes()[15:30])) {
			t.Errorf("%s: the error shows the identity", name)
		}
	}
}

// A point of low order parses in age; nothing can be sealed to it.
func TestLowOrderIsAValidText(t *testing.T) {
	if _, err := age.ParseX25519Recipient("age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq5cu47z"); err != nil {
		t.Errorf("TestRecipients tests the checksum only: %v", err)
	}
}

// F41: neither the identity nor a part of it comes back in errors or prints.
func TestIdentities(t *testing.T) {
	a := newPerson(t)
	text := string(a.text.Bytes())
	file := func(s string) *secret.Key {
		k, err := secret.Move([]byte(s))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(k.Wipe)
		return k
	}
	ids, err := ParseIdentities(file("# created: today\r\n# public key: age1...\r\n\r\n" + text + "\r\n"))
	if err != nil || len(ids) != 1 {
		t.Fatalf("%v, %v", ids, err)
	}
	for _, printed := range []string{fmt.Sprint(ids), fmt.Sprintf("%#v", ids[0]), fmt.Sprintf("%+v", ids[0]), fmt.Sprintf("%q", &ids[0])} {
		if strings.Contains(printed, text[15:30]) || !strings.Contains(printed, a.recipient.Fingerprint()) {
			t.Errorf("printed as %s", printed)
		}
	}
	for name, bad := range map[string]string{
		"comments only": "# nothing\n", "blank": "\n", "recipient": a.recipient.String(),
		"checksum": text[:len(text)-2] + "QQ", "lower case": strings.ToLower(text) + "x", "two on a line": text + text,
		"bad character": text[:30] + "!" + text[31:], "plugin": "AGE-PLUGIN-YUBIKEY-1QQQQQ",
	} {
		ids, err := ParseIdentities(file(bad))
		if ids != nil || !errors.Is(err, ErrIdentity) {
			t.Errorf("%s: %v, %v", name, ids, err)
		} else if strings.Contains(err.Error(), text[15:25]) || strings.Contains(err.Error(), "!") {
			t.Errorf("%s: the error shows the identity: %v", name, err)
		}
	}
}

// The program age opens what is sealed, with the identity as printed, and gives the bare key; and
// what age sealed is opened here.
func TestWithAge(t *testing.T) {
	program, err := exec.LookPath("age")
	if err != nil {
		testenv.Missing(t, "tools", "the program age is not installed: run scripts/deps")
	}
	p := newPerson(t)
	key := newKey(t, KeySize)
	sealed, err := Seal(key, []Recipient{p.recipient})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "identity.txt")
	if err := os.WriteFile(file, append(bytes.Clone(p.text.Bytes()), '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(stdin []byte, args ...string) []byte {
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Stdin = bytes.NewReader(stdin)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("age %v: %v", args, err)
		}
		return out
	}
	if got := run([]byte(sealed), "--decrypt", "-i", file); !bytes.Equal(got, key.Bytes()) {
		t.Errorf("age gives %d bytes, and not the key", len(got))
	}
	got, err := Open(string(run(key.Bytes(), "--encrypt", "--armor", "-r", p.recipient.String())), p.identities)
	if err != nil || !got.Equal(key) {
		t.Errorf("sealed by age: %v", err)
	}
	got.Wipe()
}
