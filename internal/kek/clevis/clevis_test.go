// SPDX-License-Identifier: Apache-2.0

package clevis_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/clevis"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/kek/realtest"
	"github.com/voluks/voluks/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var binding = kek.Binding{VolumeUUID: "0b41f68c-4a4c-4d5e-9a4e-0f1d2c3b4a59", Role: "agent"}

func open(t *testing.T, pin, policy string) kek.Provider {
	t.Helper()
	p, err := clevis.New("kek.clevis", config.Clevis{Pin: pin, Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// F28, F29, F39, F40
func TestTang(t *testing.T) {
	server, other := realtest.NewTang(t), realtest.NewTang(t)
	policy := server.Policy()
	kektest.Run(t, kektest.Target{
		New:     func(t *testing.T) kek.Provider { return open(t, "tang", policy) },
		Other:   func(t *testing.T) kek.Provider { return open(t, "tang", other.Policy()) },
		Unbound: true,
		Slack:   true,
		Stride:  71,
		Down: func(t *testing.T) kek.Provider {
			server.Stop()
			t.Cleanup(server.Start)
			return open(t, "tang", policy)
		},
		Slow: func(t *testing.T) kek.Provider {
			server.Hang()
			t.Cleanup(func() { server.Stop(); server.Start() })
			return open(t, "tang", policy)
		},
	})
}

func generate(t *testing.T, p kek.Provider) (wrap []byte, ref kek.Ref) {
	t.Helper()
	w, wrap, ref, err := p.Generate(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	w.Wipe()
	return wrap, ref
}

func unwraps(t *testing.T, p kek.Provider, ref kek.Ref, wrap []byte) error {
	t.Helper()
	w, err := p.Unwrap(t.Context(), binding, ref, wrap)
	w.Wipe()
	return err
}

// The server's keys are rotated under the volumes: old wraps open until the old keys are destroyed, and then it is said which key is gone.
func TestTangRotation(t *testing.T) {
	server := realtest.NewTang(t)
	p := open(t, "tang", server.Policy())
	before, old := generate(t, p)
	server.Rotate()
	if err := unwraps(t, p, old, before); err != nil {
		t.Errorf("after the rotation: %v", err)
	}
	renewed := open(t, "tang", server.Policy())
	if !renewed.Ref().SameKey(p.Ref()) || renewed.Ref().Version == p.Ref().Version {
		t.Errorf("a new thumbprint makes another key of it, or no other version: %v, %v", p.Ref(), renewed.Ref())
	}
	after, now := generate(t, renewed)
	if old.Version == now.Version || !old.SameKey(now) {
		t.Errorf("wrapped by %v, then by %v", old, now)
	}
	server.DropOld()
	if err := unwraps(t, renewed, now, after); err != nil {
		t.Errorf("wrapped by the new key: %v", err)
	}
	if err := unwraps(t, renewed, old, before); !errors.Is(err, kek.ErrNotFound) || !strings.Contains(err.Error(), "no longer has the key") {
		t.Errorf("wrapped by a key that is gone: %v", err)
	}
	_, _, _, err := p.Generate(t.Context(), binding) // with the old thumbprint
	var setting *kek.ConfigError
	if !errors.As(err, &setting) || setting.Setting != "kek.clevis.policy" || errors.Is(err, kek.ErrUnavailable) {
		t.Errorf("with a thumbprint that is gone: %v", err)
	}
}

// Two of three servers suffice, whichever they are.
func TestThreshold(t *testing.T) {
	var servers []*realtest.Tang
	var policies []string
	for range 3 {
		servers = append(servers, realtest.NewTang(t))
		policies = append(policies, servers[len(servers)-1].Policy())
	}
	p := open(t, "sss", fmt.Sprintf(`{"t":2,"pins":{"tang":[%s]}}`, strings.Join(policies, ",")))
	wrap, ref := generate(t, p)
	t.Logf("the wrap has %d bytes", len(wrap))
	servers[0].Stop()
	if err := unwraps(t, p, ref, wrap); err != nil {
		t.Errorf("with two of three: %v", err)
	}
	servers[2].Stop()
	if err := unwraps(t, p, ref, wrap); !errors.Is(err, kek.ErrUnavailable) || !strings.Contains(err.Error(), servers[2].URL()) {
		t.Errorf("with one of three: %v", err)
	}
	servers[2].Start()
	servers[2].Rotate()
	servers[2].DropOld()
	servers[0].Start()
	servers[0].Rotate()
	servers[0].DropOld()
	if err := unwraps(t, p, ref, wrap); !errors.Is(err, kek.ErrNotFound) {
		t.Errorf("with the keys of two gone: %v", err)
	}
	order := open(t, "sss", fmt.Sprintf(`{"pins":{"tang":[%s,%s,%s]},"t":2}`, policies[2], policies[0], policies[1]))
	if order.Ref() != p.Ref() {
		t.Errorf("the order of the servers makes another key of it: %v, %v", p.Ref(), order.Ref())
	}
}

// What a header on the disk says is not done unless the configuration says so too: it would have this node ask servers, and load modules, of the
// attacker's choice.
func TestForeignWraps(t *testing.T) {
	asked := make(chan struct{}, 100)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			asked <- struct{}{}
			c.Close()
		}
	}()
	evil := "http://" + listener.Addr().String()
	ran := filepath.Join(t.TempDir(), "ran")
	fakes := fakeClevis(t, "touch "+ran)

	jwe := func(header string) string { return base64.RawURLEncoding.EncodeToString([]byte(header)) + ".a.b.c.d" }
	good, good2 := jwe(`{"kid":"k","clevis":{"pin":"tang","tang":{"url":"http://tang"}}}`), jwe(`{"clevis":{"pin":"tang","tang":{"url":"http://tang2"}}}`)
	tang := config.Clevis{Pin: "tang", Policy: `{"url":"http://tang","thp":"x"}`}
	tpm := config.Clevis{Pin: "tpm2", Policy: `{"pcr_ids":"7"}`}
	pkcs11 := config.Clevis{Pin: "pkcs11", Policy: `{"uri":"pkcs11:token=a"}`}
	sss := config.Clevis{Pin: "sss", Policy: `{"t":1,"pins":{"tang":[{"url":"http://tang","thp":"x"},{"url":"http://tang2","thp":"x"}]}}`}
	for name, tc := range map[string]struct {
		settings config.Clevis
		wrap     string
	}{
		"another server":       {tang, jwe(`{"clevis":{"pin":"tang","tang":{"url":"` + evil + `"}}}`)},
		"another pin":          {tang, jwe(`{"clevis":{"pin":"null","null":{}}}`)},
		"a pin like a path":    {tang, jwe(`{"clevis":{"pin":"../../../tmp/x"}}`)},
		"more than one JWE":    {tang, good + "\n" + good},
		"header not base64":    {tang, "!.a.b.c.d"},
		"header not JSON":      {tang, jwe("{")},
		"other PCRs":           {tpm, jwe(`{"clevis":{"pin":"tpm2","tpm2":{"hash":"sha256","key":"ecc","pcr_bank":"sha256","pcr_ids":"8"}}}`)},
		"no PCRs":              {tpm, jwe(`{"clevis":{"pin":"tpm2","tpm2":{"hash":"sha256","key":"ecc"}}}`)},
		"a module":             {pkcs11, jwe(`{"clevis":{"pin":"pkcs11","pkcs11":{"uri":"pkcs11:token=a?module-path=/tmp/x.so"}}}`)},
		"another mechanism":    {pkcs11, jwe(`{"clevis":{"pin":"pkcs11","pkcs11":{"uri":"pkcs11:token=a","mechanism":"RSA-PKCS --module /tmp/x.so"}}}`)},
		"a list for a text":    {pkcs11, jwe(`{"clevis":{"pin":"pkcs11","pkcs11":{"uri":"pkcs11:token=a","mechanism":["x"]}}}`)},
		"two in one, by case":  {tang, jwe(`{"clevis":{"pin":"null","null":{}},"Clevis":{"pin":"tang","tang":{"url":"http://tang"}}}`)},
		"another url, by case": {tang, jwe(`{"clevis":{"pin":"tang","tang":{"url":"` + evil + `","URL":"http://tang"}}}`)},
		"another threshold":    {sss, jwe(`{"clevis":{"pin":"sss","sss":{"t":2,"jwe":["` + good + `","` + good2 + `"]}}}`)},
		"one server twice":     {sss, jwe(`{"clevis":{"pin":"sss","sss":{"t":1,"jwe":["` + good + `","` + good + `"]}}}`)},
		"another server below": {sss, jwe(`{"clevis":{"pin":"sss","sss":{"t":1,"jwe":["` + good + `","` + jwe(`{"clevis":{"pin":"tang","tang":{"url":"`+evil+`"}}}`) + `"]}}}`)},
	} {
		p, err := clevis.NewIn(fakes, "kek.clevis", tc.settings)
		if err != nil {
			t.Fatal(err)
		}
		if err := unwraps(t, p, p.Ref(), []byte(tc.wrap)); !errors.Is(err, kek.ErrWrongKey) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("clevis was run")
	}
	if len(asked) > 0 {
		t.Error("the other server was asked")
	}
}

// A pin that Debian 13 does not have yet, found by its name as clevis finds pins, through the real clevis: its configuration arrives as it was given, and
// its wraps come back.
func TestPKCS11(t *testing.T) {
	realtest.NeedTang(t)
	dir := t.TempDir()
	// As clevis 24 does: what the configuration says stands in the header, and W below a key that the token would open.
	for name, script := range map[string]string{
		"clevis-encrypt-pkcs11": `printf %s "$1" >"$DIR/config"
uri=$(jose fmt -j- -Og uri -u- <<<"$1"); mechanism=$(jose fmt -j- -Og mechanism -u- <<<"$1" || :)
jwe='{"protected":{"clevis":{"pin":"pkcs11","pkcs11":{"uri":"'$uri'","mechanism":"'$mechanism'"}}}}'
(printf %s "$jwe"; cat "$DIR/token"; cat) | jose jwe enc -i- -k- -I- -c`,
		"clevis-decrypt-pkcs11": `(cat "$DIR/token"; cat) | jose jwe dec -k- -i-`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/bash\nset -eo pipefail\nDIR="+dir+"\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	newToken := func() {
		if out, err := exec.Command("jose", "jwk", "gen", "-i", `{"alg":"A256GCMKW"}`, "-o", filepath.Join(dir, "token")).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	newToken()
	const policy = `{"mechanism":"RSA-PKCS","uri":"pkcs11:module-path=/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so;token=voluks"}`
	p, err := clevis.NewIn(dir+":"+clevis.Searched, "kek.clevis", config.Clevis{Pin: "pkcs11", Policy: policy})
	if err != nil {
		t.Fatal(err)
	}
	wrap, ref := generate(t, p)
	if got, err := os.ReadFile(filepath.Join(dir, "config")); err != nil || string(got) != policy {
		t.Errorf("the pin got %s, %v", got, err)
	}
	if err := unwraps(t, p, ref, wrap); err != nil {
		t.Error(err)
	}
	other, err := clevis.NewIn(dir+":"+clevis.Searched, "kek.clevis", config.Clevis{Pin: "pkcs11", Policy: strings.Replace(policy, "=voluks", "=other", 1)})
	if err != nil {
		t.Fatal(err)
	}
	if err := unwraps(t, other, ref, wrap); !errors.Is(err, kek.ErrNotMine) {
		t.Errorf("a token of another name: %v", err)
	}
	newToken()
	if err := unwraps(t, p, ref, wrap); !errors.Is(err, kek.ErrWrongKey) {
		t.Errorf("another token: %v", err)
	}
}

// fakeClevis makes a directory with a clevis that does what the script says, for each pin. The real one's pins are never called.
func fakeClevis(t *testing.T, script string) (path string) {
	t.Helper()
	dir := t.TempDir()
	for _, program := range []string{"clevis", "clevis-encrypt-tang", "clevis-decrypt-tang", "clevis-encrypt-tpm2", "clevis-decrypt-tpm2",
		"clevis-encrypt-sss", "clevis-decrypt-sss", "clevis-encrypt-pkcs11", "clevis-decrypt-pkcs11"} {
		if err := os.WriteFile(filepath.Join(dir, program), []byte("#!/bin/sh\nPATH=/usr/bin:/bin\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestMisbehaviour(t *testing.T) {
	header := base64.RawURLEncoding.EncodeToString([]byte(`{"clevis":{"pin":"tang","tang":{"url":"http://127.0.0.1:1"}}}`))
	key := strings.Repeat("QUJD", 11)
	for name, tc := range map[string]struct {
		script          string
		encrypt, unwrap error // nil: a ConfigError that will not pass
	}{
		"nothing":            {":", nil, kek.ErrWrongKey},
		"31 bytes":           {"head -c 31 /dev/zero", nil, kek.ErrWrongKey},
		"33 bytes":           {"head -c 33 /dev/zero", nil, kek.ErrWrongKey},
		"flood":              {"exec cat /dev/zero", nil, nil},
		"complaints":         {"exec cat /dev/zero >&2", nil, nil},
		"no TPM":             {"echo A TPM2 device with the in-kernel resource manager is needed! >&2; exit 1", kek.ErrUnavailable, kek.ErrUnavailable},
		"other PCRs":         {"echo Unsealing jwk from TPM failed! " + key + " >&2; exit 1", kek.ErrUnavailable, kek.ErrDenied},
		"no token":           {"echo error: Token not initialized >&2; exit 1", kek.ErrUnavailable, kek.ErrUnavailable},
		"another PIN":        {"echo rv = CKR_PIN_INCORRECT >&2; exit 1", kek.ErrUnavailable, kek.ErrDenied}, // in a file that is not there
		"no PIN":             {"echo Invalid PIN? >&2; exit 1", kek.ErrUnavailable, kek.ErrUnavailable},      // in its file, which is not there
		"server down":        {"echo Error communicating with server http://127.0.0.1:1 >&2; exit 1", kek.ErrUnavailable, kek.ErrUnavailable},
		"something else":     {"echo oops >&2; exit 1", kek.ErrUnavailable, kek.ErrWrongKey}, // the server of this policy is down
		"a terminal's words": {`printf '\033[2Joops' >&2; exit 1`, kek.ErrUnavailable, kek.ErrWrongKey},
	} {
		p, err := clevis.NewIn(fakeClevis(t, tc.script), "kek.clevis", config.Clevis{Pin: "tang", Policy: `{"url":"http://127.0.0.1:1","thp":"x"}`})
		if err != nil {
			t.Fatal(err)
		}
		_, _, _, encrypt := p.Generate(t.Context(), binding)
		for what, check := range map[string]struct{ err, want error }{"generate": {encrypt, tc.encrypt}, "unwrap": {unwraps(t, p, p.Ref(), []byte(header+".a.b.c.d")), tc.unwrap}} {
			var setting *kek.ConfigError
			if check.want != nil && !errors.Is(check.err, check.want) || check.want == nil && (!errors.As(check.err, &setting) || errors.Is(check.err, kek.ErrUnavailable)) {
				t.Errorf("%s: %s: got %v, want %v", name, what, check.err, check.want)
			}
			if strings.HasSuffix(name, " bytes") && what == "unwrap" && (!errors.As(check.err, &setting) || setting.Setting != "kek.clevis.policy") {
				t.Errorf("%s: %v does not name the policy", name, check.err)
			}
			if check.err != nil && (strings.Contains(check.err.Error(), key[:12]) || strings.Contains(check.err.Error(), "\x1b")) {
				t.Errorf("%s: %s: %q", name, what, check.err)
			}
		}
	}
}

// A PIN that the token refuses is tried once: most tokens lock themselves after three.
func TestWrongPIN(t *testing.T) {
	fakes := fakeClevis(t, `[ "$1" = decrypt ] || exec cat; [ -e "${0%/*}/pin" ] && echo CKR_PIN_INCORRECT >&2; echo "Invalid PIN?" >&2; exit 1`)
	pin := filepath.Join(fakes, "pin")
	if err := os.WriteFile(pin, []byte("999999"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := clevis.NewIn(fakes, "kek.clevis", config.Clevis{Pin: "pkcs11", Policy: `{"uri":"pkcs11:token=a"}`})
	if err != nil {
		t.Fatal(err)
	}
	wrap := []byte(base64.RawURLEncoding.EncodeToString([]byte(`{"clevis":{"pin":"pkcs11","pkcs11":{"uri":"pkcs11:token=a"}}}`)) + ".a.b.c.d")
	if err := unwraps(t, p, p.Ref(), wrap); !errors.Is(err, kek.ErrDenied) || !strings.Contains(err.Error(), "it was removed") {
		t.Errorf("the wrong PIN: %v", err)
	}
	if _, err := os.Stat(pin); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if err := unwraps(t, p, p.Ref(), wrap); !errors.Is(err, kek.ErrUnavailable) || !strings.Contains(err.Error(), pin) {
		t.Errorf("then: %v", err)
	}
}

// Volumes that are unlocked at the same time try it once too.
func TestWrongPINOfMany(t *testing.T) {
	fakes := fakeClevis(t, `[ -e "${0%/*}/pin" ] && echo >>"${0%/*}/tries" && sleep 0.1 && echo CKR_PIN_INCORRECT >&2; echo "Invalid PIN?" >&2; exit 1`)
	if err := os.WriteFile(filepath.Join(fakes, "pin"), []byte("999999"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := clevis.NewIn(fakes, "kek.clevis", config.Clevis{Pin: "pkcs11", Policy: `{"uri":"pkcs11:token=a"}`})
	if err != nil {
		t.Fatal(err)
	}
	wrap := []byte(base64.RawURLEncoding.EncodeToString([]byte(`{"clevis":{"pin":"pkcs11","pkcs11":{"uri":"pkcs11:token=a"}}}`)) + ".a.b.c.d")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if err := unwraps(t, p, p.Ref(), wrap); err == nil {
				t.Error("it unwraps")
			}
		})
	}
	wg.Wait()
	if tries, err := os.ReadFile(filepath.Join(fakes, "tries")); err != nil || len(tries) != 1 {
		t.Errorf("%d tries, %v", len(tries), err)
	}
}

// A policy may have a server that is down too, which tells nothing of the PIN.
func TestWrongPINBesideAServer(t *testing.T) {
	fakes := fakeClevis(t, "echo CKR_PIN_INCORRECT >&2; echo Error communicating with server http://127.0.0.1:1 >&2; exit 1")
	pin := filepath.Join(fakes, "pin")
	if err := os.WriteFile(pin, []byte("999999"), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := clevis.NewIn(fakes, "kek.clevis", config.Clevis{Pin: "tang", Policy: `{"url":"http://127.0.0.1:1","thp":"x"}`})
	if err != nil {
		t.Fatal(err)
	}
	wrap := []byte(base64.RawURLEncoding.EncodeToString([]byte(`{"clevis":{"pin":"tang","tang":{"url":"http://127.0.0.1:1"}}}`)) + ".a.b.c.d")
	err = unwraps(t, p, p.Ref(), wrap)
	if !errors.Is(err, kek.ErrUnavailable) || errors.Is(err, kek.ErrDenied) || !strings.Contains(err.Error(), "it was removed") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(pin); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
}

// F41: W is in pipes alone. What everybody can read are the arguments and the environment.
func TestWhatClevisIsGiven(t *testing.T) {
	seen := filepath.Join(t.TempDir(), "seen")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "not for clevis")
	p, err := clevis.NewIn(fakeClevis(t, `{ cat /proc/$$/cmdline /proc/$$/environ | tr '\0' '\n'; echo; } >`+seen+`; cat >`+seen+`.key; exit 1`),
		"kek.clevis", config.Clevis{Pin: "tpm2", Policy: `{"pcr_ids":[7,11]}`})
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, _ = p.Generate(t.Context(), binding)
	got, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(seen + ".key")
	if err != nil || len(key) != kek.KeySize {
		t.Fatalf("standard input had %d bytes: %v", len(key), err)
	}
	if strings.Contains(string(got), string(key)) || strings.Contains(string(got), "AWS") {
		t.Errorf("arguments and environment are %q", got)
	}
	if !strings.Contains(string(got), "encrypt\ntpm2\n"+`{"hash":"sha256","key":"ecc","pcr_bank":"sha256","pcr_ids":"7,11"}`) {
		t.Errorf("arguments and environment are %q", got)
	}
}

func TestBadSettings(t *testing.T) {
	fakes, empty := fakeClevis(t, "exit 1"), t.TempDir()
	noTPM := fakeClevis(t, "exit 1")
	if err := os.Remove(filepath.Join(noTPM, "clevis-decrypt-tpm2")); err != nil {
		t.Fatal(err)
	}
	good := `{"url":"http://tang","thp":"x"}`
	for name, tc := range map[string]struct{ pin, policy, path, setting, words string }{
		"no pin":                {"", good, fakes, "pin", "not one of"},
		"unknown pin":           {"tagn", good, fakes, "pin", "not one of"},
		"null":                  {"null", "{}", fakes, "pin", "protects nothing"},
		"no policy":             {"tang", "", fakes, "policy", "JSON"},
		"not JSON":              {"tang", "url=http://tang", fakes, "policy", "JSON"},
		"a list":                {"tang", "[]", fakes, "policy", "JSON"},
		"two policies":          {"tang", good + good, fakes, "policy", "more"},
		"no url":                {"tang", `{"thp":"x"}`, fakes, "policy", "url"},
		"url of a file":         {"tang", `{"url":"file:///etc","thp":"x"}`, fakes, "policy", "url"},
		"no trust":              {"tang", `{"url":"http://tang"}`, fakes, "policy", "thp"},
		"no trust below":        {"sss", `{"t":1,"pins":{"tang":{"url":"http://tang"}}}`, fakes, "policy", "thp"},
		"null below":            {"sss", `{"t":1,"pins":{"null":{}}}`, fakes, "policy", "protects nothing"},
		"threshold 0":           {"sss", `{"t":0,"pins":{"tang":` + good + `}}`, fakes, "policy", `"t"`},
		"threshold too high":    {"sss", `{"t":2,"pins":{"tang":` + good + `}}`, fakes, "policy", `"t"`},
		"no threshold":          {"sss", `{"pins":{"tang":` + good + `}}`, fakes, "policy", `"t"`},
		"no pins":               {"sss", `{"t":1}`, fakes, "policy", "pins"},
		"pins of no kind":       {"sss", `{"t":1,"pins":{"tang":["http://tang"]}}`, fakes, "policy", "object"},
		"PCRs in words":         {"tpm2", `{"pcr_ids":"seven"}`, fakes, "policy", "pcr_ids"},
		"PIN in the open":       {"pkcs11", `{"uri":"pkcs11:token=a?pin-value=1234"}`, fakes, "policy", "pin-value"},
		"no token":              {"pkcs11", `{}`, fakes, "policy", "uri"},
		"clevis missing":        {"tang", good, empty, "pin", "package clevis"},
		"pin missing":           {"tpm2", `{}`, noTPM, "pin", "package clevis-tpm2"},
		"pin of a mix missing":  {"sss", `{"t":1,"pins":{"tpm2":{},"tang":` + good + `}}`, noTPM, "pin", "package clevis-tpm2"},
		"PIN shown to no error": {"pkcs11", `{"uri":"pkcs11:pin-value=123456"}`, fakes, "policy", "/run/systemd"},
		"PIN in a file":         {"pkcs11", `{"uri":"pkcs11:token=a?pin-source=file:/pin"}`, fakes, "policy", "/run/systemd"},
	} {
		_, err := clevis.NewIn(tc.path, "kek.clevis", config.Clevis{Pin: tc.pin, Policy: tc.policy})
		var setting *kek.ConfigError
		if !errors.As(err, &setting) || setting.Setting != "kek.clevis."+tc.setting || !strings.Contains(err.Error(), tc.words) || strings.Contains(err.Error(), "123456") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
