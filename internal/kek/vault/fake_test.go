// SPDX-License-Identifier: Apache-2.0

package vault_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// fake keeps the documented contract of the transit engine and of AppRole, in the words of the real ones (transittest asks those). A handler for
// an httptest.Server.
type fake struct {
	mu        sync.Mutex
	keys      map[string]*transitKey // by "mount/name"
	tokens    map[string]bool
	secretID  string
	namespace string
	agent     bool // adds a token to requests without one

	status int    // what every request ends with, if not 0
	hang   bool   // answer nothing
	answer []byte // instead of the real one
	calls  []string
}

type transitKey struct {
	derived  bool
	versions [][]byte
	min      int
}

func newFake() *fake {
	f := &fake{tokens: map[string]bool{"s.token": true}, keys: map[string]*transitKey{}, secretID: "the-secret-id"}
	for name, derived := range map[string]bool{"transit/plain": false, "transit/other": false, "transit/derived": true, "transit/derived2": true} {
		f.keys[name] = &transitKey{derived: derived, min: 1}
		f.advance(name)
	}
	return f
}

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *fake) advance(name string) {
	material := make([]byte, 32)
	rand.Read(material)
	f.keys[name].versions = append(f.keys[name].versions, material)
}

type body struct {
	Context    []byte `json:"context"`
	Plaintext  []byte `json:"plaintext"`
	Ciphertext string `json:"ciphertext"`
	RoleID     string `json:"role_id"`
	SecretID   string `json:"secret_id"`
}

func (f *fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	status, hang, instead := f.status, f.hang, f.answer
	f.calls = append(f.calls, r.URL.Path)
	f.mu.Unlock()
	var in body
	switch {
	case hang:
		<-r.Context().Done()
	case instead != nil:
		w.Write(instead)
	case status != 0:
		reply(w, status, map[string]any{"errors": []string{}})
	case json.Unmarshal(raw, &in) != nil:
		refuse(w, 400, "failed to parse JSON input")
	case r.Method != http.MethodPost && r.Method != http.MethodPut:
		refuse(w, 405, "unsupported operation")
	case r.Header.Get("X-Vault-Namespace") != f.namespace, r.Header.Get("X-Vault-Request") != "true":
		refuse(w, 404, "no handler for route")
	case r.URL.Path == "/v1/auth/approle/login":
		f.login(w, in)
	default:
		f.transit(w, r, in)
	}
}

func (f *fake) login(w http.ResponseWriter, in body) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case in.RoleID != "the-role":
		refuse(w, 400, "invalid role or secret ID")
	case in.SecretID != f.secretID:
		refuse(w, 400, "invalid role or secret ID")
	default:
		f.tokens["s.from-approle"] = true
		reply(w, 200, map[string]any{"auth": map[string]any{"client_token": "s.from-approle", "lease_duration": 60}, "data": nil})
	}
}

func (f *fake) transit(w http.ResponseWriter, r *http.Request, in body) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.tokens[r.Header.Get("X-Vault-Token")] && !(f.agent && r.Header.Get("X-Vault-Token") == "") {
		refuse(w, 403, "permission denied")
		return
	}
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/"), "/")
	if len(parts) != 3 || parts[0] != "transit" {
		refuse(w, 404, "no handler for route")
		return
	}
	key := f.keys[parts[0]+"/"+parts[2]]
	switch {
	case key == nil:
		refuse(w, 400, "encryption key not found")
	case key.derived && len(in.Context) == 0:
		refuse(w, 400, "missing 'context' for key derivation; the key was created using a derived key, which means additional, per-request information must be included in order to perform operations with the key")
	case parts[1] == "encrypt":
		reply(w, 200, map[string]any{"data": map[string]any{"ciphertext": key.seal(in.Context, in.Plaintext), "key_version": len(key.versions)}})
	default:
		plaintext, problem := key.open(in.Context, in.Ciphertext)
		switch {
		case problem != "":
			refuse(w, 400, problem)
		case parts[1] == "rewrap":
			reply(w, 200, map[string]any{"data": map[string]any{"ciphertext": key.seal(in.Context, plaintext)}})
		case parts[1] == "decrypt":
			reply(w, 200, map[string]any{"data": map[string]any{"plaintext": plaintext}})
		}
	}
}

func (k *transitKey) aead(version int, context []byte) cipher.AEAD {
	material := k.versions[version-1]
	if k.derived {
		sum := sha256.Sum256(append(bytes.Clone(material), context...))
		material = sum[:]
	}
	block, _ := aes.NewCipher(material)
	aead, _ := cipher.NewGCMWithRandomNonce(block)
	return aead
}

func (k *transitKey) seal(context, plaintext []byte) string {
	sealed := k.aead(len(k.versions), context).Seal(nil, nil, plaintext, nil)
	return fmt.Sprintf("vault:v%d:%s", len(k.versions), base64.StdEncoding.EncodeToString(sealed))
}

func (k *transitKey) open(context []byte, ciphertext string) (plaintext []byte, problem string) {
	parts := strings.SplitN(ciphertext, ":", 3)
	if len(parts) != 3 || parts[0] != "vault" || !strings.HasPrefix(parts[1], "v") {
		return nil, "invalid ciphertext: no prefix"
	}
	version, err := strconv.Atoi(parts[1][1:])
	sealed, err64 := base64.StdEncoding.DecodeString(parts[2])
	switch {
	case err != nil:
		return nil, "invalid ciphertext: version number could not be decoded"
	case version > len(k.versions):
		return nil, "invalid ciphertext: version is too new"
	case version < k.min:
		return nil, "ciphertext or signature version is disallowed by policy (too old)"
	case err64 != nil, len(sealed) < 28:
		return nil, "invalid ciphertext: could not decode base64"
	}
	plaintext, err = k.aead(version, context).Open(nil, nil, sealed, nil)
	if err != nil {
		return nil, err.Error()
	}
	return plaintext, ""
}

func refuse(w http.ResponseWriter, status int, words string) {
	reply(w, status, map[string]any{"errors": []string{words}})
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// quiet is where a server may complain about the clients that a test sends it.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }
