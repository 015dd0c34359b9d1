// SPDX-License-Identifier: Apache-2.0

package awskms_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/awskms"
	"github.com/voluks/voluks/internal/kek/kektest"
	"github.com/voluks/voluks/internal/kek/kektest/fakekms"
	"github.com/voluks/voluks/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var binding = kek.Binding{VolumeUUID: "0b41f68c-4a4c-4d5e-9a4e-0f1d2c3b4a59", Role: "agent"}

// chain gives the standard chain nothing but credentials in the environment.
func chain(t *testing.T) {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "",
		"AWS_PROFILE": "", "AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_KMS": "", "AWS_CA_BUNDLE": "",
	} {
		t.Setenv(name, value)
	}
}

func serve(t *testing.T, f *fakekms.Fake) string {
	t.Helper()
	chain(t)
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return server.URL
}

func open(t *testing.T, s config.AWSKMS) kek.Provider {
	t.Helper()
	p, err := awskms.New("kek.awskms", s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// F28, F29, F39
func TestConformance(t *testing.T) {
	f := fakekms.New()
	url := serve(t, f)
	settings := config.AWSKMS{KeyID: fakekms.KeyA, Endpoint: url}
	while := func(set, reset func()) func(*testing.T) kek.Provider {
		return func(t *testing.T) kek.Provider {
			f.Set(set)
			t.Cleanup(func() { f.Set(reset) })
			return open(t, settings)
		}
	}
	kektest.Run(t, kektest.Target{
		New:   func(t *testing.T) kek.Provider { return open(t, settings) },
		Other: func(t *testing.T) kek.Provider { return open(t, config.AWSKMS{KeyID: fakekms.KeyB, Endpoint: url}) },
		Down: func(t *testing.T) kek.Provider {
			return open(t, config.AWSKMS{KeyID: fakekms.KeyA, Endpoint: "http://127.0.0.1:1"})
		},
		Slow:     while(func() { f.Hang = true }, func() { f.Hang = false }),
		Denied:   while(func() { f.Denied = true }, func() { f.Denied = false }),
		Disabled: while(func() { f.SetState(fakekms.KeyA, "Disabled") }, func() { f.SetState(fakekms.KeyA, "Enabled") }),
		Advance:  func(*testing.T) { f.Set(func() { f.Advance(fakekms.KeyA) }) },
	})
}

// The key's ID is the same however it is configured, and its version is the material that KMS rotates.
func TestRef(t *testing.T) {
	f := fakekms.New()
	url := serve(t, f)
	arn, bare := open(t, config.AWSKMS{KeyID: fakekms.KeyA, Endpoint: url}), open(t, config.AWSKMS{KeyID: fakekms.KeyA[len(fakekms.KeyA)-36:], Region: "eu-central-1", Endpoint: url})
	if arn.Ref() != bare.Ref() {
		t.Errorf("%v and %v", arn.Ref(), bare.Ref())
	}
	w, wrap, ref, err := arn.Generate(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Wipe()
	if ref.Version != f.Material(fakekms.KeyA) {
		t.Errorf("version %q", ref.Version)
	}
	got, err := bare.Unwrap(t.Context(), binding, ref, wrap)
	if err != nil || !got.Equal(w) {
		t.Errorf("unwrap: %v", err)
	}
	got.Wipe()
}

// blames fails the test unless err is want, if that is not nil, and names the setting, if that is not "".
func blames(t *testing.T, what string, err, want error, setting string) {
	t.Helper()
	if err == nil || want != nil && !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
	if want != kek.ErrUnavailable && errors.Is(err, kek.ErrUnavailable) {
		t.Errorf("%s: %v would be tried again", what, err)
	}
	var bad *kek.ConfigError
	if setting != "" && (!errors.As(err, &bad) || bad.Setting != strings.TrimSuffix("kek.awskms."+setting, "..")) { // ".": the table as a whole
		t.Errorf("%s: got %v, want %s to be named", what, err, setting)
	}
}

func TestBadSettings(t *testing.T) {
	chain(t)
	for name, tc := range map[string]struct {
		settings config.AWSKMS
		setting  string
	}{
		"no key":                {config.AWSKMS{}, "key_id"},
		"alias":                 {config.AWSKMS{KeyID: "alias/voluks", Region: "eu-central-1"}, "key_id"},
		"ARN of an alias":       {config.AWSKMS{KeyID: "arn:aws:kms:eu-central-1:111122223333:alias/voluks"}, "key_id"},
		"ARN of something else": {config.AWSKMS{KeyID: "arn:aws:s3:::bucket", Region: "eu-central-1"}, "key_id"},
		"no region":             {config.AWSKMS{KeyID: "1234abcd-12ab-34cd-56ef-1234567890ab"}, "region"},
		"no such profile":       {config.AWSKMS{KeyID: fakekms.KeyA, Profile: "nobody"}, "profile"},
		"endpoint no URL":       {config.AWSKMS{KeyID: fakekms.KeyA, Endpoint: "kms.internal"}, "endpoint"},
		"endpoint in clear":     {config.AWSKMS{KeyID: fakekms.KeyA, Endpoint: "http://kms.internal"}, "endpoint"},
		"endpoint with secrets": {config.AWSKMS{KeyID: fakekms.KeyA, Endpoint: "https://user:pass@kms.internal"}, "endpoint"},
	} {
		_, err := awskms.New("kek.awskms", tc.settings)
		blames(t, name, err, nil, tc.setting)
	}
}

func TestErrors(t *testing.T) {
	for code, tc := range map[string]struct {
		status  int
		want    error
		setting string
	}{
		"NotFoundException":           {400, kek.ErrNotFound, "key_id"},
		"DisabledException":           {400, kek.ErrDisabled, "key_id"},
		"KMSInvalidStateException":    {400, kek.ErrDisabled, "key_id"},
		"InvalidKeyUsageException":    {400, nil, "key_id"},
		"ValidationException":         {400, nil, "key_id"},
		"AccessDeniedException":       {400, kek.ErrDenied, "."},
		"ExpiredTokenException":       {400, kek.ErrDenied, "."},
		"UnrecognizedClientException": {400, kek.ErrDenied, "."},
		"InvalidSignatureException":   {400, kek.ErrDenied, "."},
		"ThrottlingException":         {400, kek.ErrUnavailable, ""},
		"LimitExceededException":      {400, kek.ErrUnavailable, ""},
		"KMSInternalException":        {500, kek.ErrUnavailable, ""},
		"KeyUnavailableException":     {500, kek.ErrUnavailable, ""},
		"DependencyTimeoutException":  {503, kek.ErrUnavailable, ""},
		"SomethingNewException":       {500, kek.ErrUnavailable, ""},
		"UnknownOperationException":   {400, nil, "endpoint"},
	} {
		f := fakekms.New()
		f.Fail, f.Status = code, tc.status
		p := open(t, config.AWSKMS{KeyID: fakekms.KeyA, Endpoint: serve(t, f)})
		w, _, _, err := p.Generate(t.Context(), binding)
		w.Wipe()
		blames(t, code, err, tc.want, tc.setting)
		if len(f.Calls) != 1 {
			t.Errorf("%s: %d calls; to try again is for those who unlock", code, len(f.Calls))
		}
		_, err = p.Unwrap(t.Context(), binding, p.Ref(), []byte("blob"))
		blames(t, code, err, tc.want, tc.setting)
		_, _, err = p.(kek.Rewrapper).Rewrap(t.Context(), binding, p.Ref(), []byte("blob"))
		blames(t, code, err, tc.want, tc.setting)
	}
}

func TestAnotherKindOfServer(t *testing.T) {
	other, _ := json.Marshal(map[string]any{"CiphertextBlob": []byte("x"), "Plaintext": make([]byte, 32), "KeyId": fakekms.KeyB})
	for raw, setting := range map[string]string{"<html>": "endpoint", "[]": "endpoint", string(other): "key_id"} {
		f := fakekms.New()
		f.Raw = raw
		w, _, _, err := open(t, config.AWSKMS{KeyID: fakekms.KeyA, Endpoint: serve(t, f)}).Generate(t.Context(), binding)
		w.Wipe()
		blames(t, raw, err, nil, setting)
	}
}

func TestWrongLength(t *testing.T) {
	for _, n := range []int{0, 31, 33} {
		f := fakekms.New()
		f.Raw = `{"KeyId":"` + fakekms.KeyA + `","CiphertextBlob":"AAAA","Plaintext":"` + base64.StdEncoding.EncodeToString(make([]byte, n)) + `"}`
		p := open(t, config.AWSKMS{KeyID: fakekms.KeyA, Endpoint: serve(t, f)})
		w, err := p.Unwrap(t.Context(), binding, p.Ref(), []byte("blob"))
		if w != nil || !errors.Is(err, kek.ErrWrongKey) {
			t.Errorf("%d bytes: %v, %v", n, w, err)
		}
		blames(t, "wrong length", err, kek.ErrWrongKey, "key_id")
		if w, _, _, err := p.Generate(t.Context(), binding); w != nil || err == nil {
			t.Errorf("generate %d bytes: %v, %v", n, w, err)
		}
	}
}

// At boot the credentials of an instance come with its network.
func TestNoCredentials(t *testing.T) {
	f := fakekms.New()
	url := serve(t, f)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	w, _, _, err := open(t, config.AWSKMS{KeyID: fakekms.KeyA, Endpoint: url}).Generate(t.Context(), binding)
	w.Wipe()
	blames(t, "no credentials", err, kek.ErrUnavailable, "")
}

// Credentials and region come from a profile too.
func TestProfile(t *testing.T) {
	f := fakekms.New()
	url := serve(t, f)
	t.Setenv("AWS_ACCESS_KEY_ID", "")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "")
	file := filepath.Join(t.TempDir(), "config")
	text := "[profile voluks]\nregion = eu-central-1\naws_access_key_id = AKIDEXAMPLE\naws_secret_access_key = x\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_CONFIG_FILE", file)
	w, _, _, err := open(t, config.AWSKMS{KeyID: fakekms.KeyA[len(fakekms.KeyA)-36:], Profile: "voluks", Endpoint: url}).Generate(t.Context(), binding)
	if err != nil {
		t.Fatal(err)
	}
	w.Wipe()
}

func TestUntrustedCertificate(t *testing.T) {
	chain(t)
	server := httptest.NewUnstartedServer(fakekms.New())
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	w, _, _, err := open(t, config.AWSKMS{KeyID: fakekms.KeyA, Endpoint: server.URL}).Generate(t.Context(), binding)
	w.Wipe()
	blames(t, "certificate", err, nil, "endpoint")
}

// F41: what is in the errors is fit to be shown.
func TestErrorsShowNoKey(t *testing.T) {
	f := fakekms.New()
	f.Raw = `{"Plaintext":"` + strings.Repeat("QUJD", 11) + `"` // cut off
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	w, _, _, err := open(t, config.AWSKMS{KeyID: fakekms.KeyA, Endpoint: serve(t, f)}).Generate(ctx, binding)
	w.Wipe()
	if err == nil || strings.Contains(err.Error(), "QUJDQUJD") {
		t.Errorf("got %v", err)
	}
}
