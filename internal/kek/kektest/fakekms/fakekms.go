// SPDX-License-Identifier: Apache-2.0

// Package fakekms is AWS KMS for tests, as far as its contract is documented.
package fakekms

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// Two keys that there are.
const (
	KeyA = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	KeyB = "arn:aws:kms:eu-central-1:111122223333:key/9876fedc-12ab-34cd-56ef-1234567890ab"
)

// Fake keeps the contract that the API reference of KMS documents: the blob is opaque and names its key and material, the context must match, the key
// that is asked for must be the one that encrypted, and errors have the documented names. It takes
// requests that are signed by the account AKIDEXAMPLE for the region eu-central-1. Its fields may be changed in Set alone.
type Fake struct {
	mu   sync.Mutex
	keys map[string]*kmsKey // by ARN

	Denied bool     // it answers as IAM does when it refuses
	Hang   bool     // it never answers
	Fail   string   // an error code that everything ends with
	Status int      // of that error; 0 is 400
	Raw    string   // an answer instead of the real one
	Calls  []string // operations, in the order in which they came
}

type kmsKey struct {
	state     string
	materials [][]byte
}

// New is a KMS with two keys.
func New() *Fake {
	f := &Fake{keys: map[string]*kmsKey{}}
	for _, arn := range []string{KeyA, KeyB} {
		f.keys[arn] = &kmsKey{state: "Enabled"}
		f.Advance(arn)
	}
	return f
}

// Set changes the fields.
func (f *Fake) Set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// SetState makes a key "Enabled", "Disabled" or "PendingDeletion". In Set.
func (f *Fake) SetState(arn, state string) { f.keys[arn].state = state }

// Material is the ID of the newest material of a key.
func (f *Fake) Material(arn string) string { return f.keys[arn].material() }

// Advance rotates a key: it gets new material, and the old one still decrypts. In Set.
func (f *Fake) Advance(arn string) {
	material := make([]byte, 32)
	rand.Read(material)
	f.keys[arn].materials = append(f.keys[arn].materials, material)
}

type input struct {
	KeyId, SourceKeyId, DestinationKeyId                                     string
	NumberOfBytes                                                            int
	CiphertextBlob                                                           []byte
	EncryptionContext, SourceEncryptionContext, DestinationEncryptionContext map[string]string
}

// ServeHTTP implements http.Handler.
func (f *Fake) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	hang := f.Hang
	f.mu.Unlock()
	if hang {
		<-r.Context().Done()
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	operation := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "TrentService.")
	f.Calls = append(f.Calls, operation)
	var in input
	switch err := json.Unmarshal(body, &in); {
	case f.Raw != "":
		io.WriteString(w, f.Raw)
	case err != nil:
		refuse(w, 400, "SerializationException", err.Error())
	case f.Fail != "":
		refuse(w, max(f.Status, 400), f.Fail, "as the test wants it")
	case !strings.Contains(r.Header.Get("Authorization"), "Credential=AKIDEXAMPLE/") || !strings.Contains(r.Header.Get("Authorization"), "/eu-central-1/kms/"):
		refuse(w, 400, "UnrecognizedClientException", "The security token included in the request is invalid.")
	case f.Denied:
		refuse(w, 400, "AccessDeniedException", "User: arn:aws:iam::111122223333:user/node is not authorized to perform: kms:"+operation)
	default:
		f.answer(w, operation, in)
	}
}

func (f *Fake) answer(w http.ResponseWriter, operation string, in input) {
	switch operation {
	case "GenerateDataKey":
		key, arn := f.usable(w, in.KeyId)
		if key == nil {
			return
		}
		plaintext := make([]byte, in.NumberOfBytes)
		rand.Read(plaintext)
		reply(w, map[string]any{"CiphertextBlob": key.seal(arn, in.EncryptionContext, plaintext), "Plaintext": plaintext, "KeyId": arn, "KeyMaterialId": key.material()})
	case "Decrypt":
		if plaintext, arn := f.open(w, in.KeyId, in.EncryptionContext, in.CiphertextBlob); plaintext != nil {
			reply(w, map[string]any{"Plaintext": plaintext, "KeyId": arn, "EncryptionAlgorithm": "SYMMETRIC_DEFAULT"})
		}
	case "ReEncrypt":
		plaintext, _ := f.open(w, in.SourceKeyId, in.SourceEncryptionContext, in.CiphertextBlob)
		if plaintext == nil {
			return
		}
		if key, arn := f.usable(w, in.DestinationKeyId); key != nil {
			reply(w, map[string]any{"CiphertextBlob": key.seal(arn, in.DestinationEncryptionContext, plaintext), "KeyId": arn, "DestinationKeyMaterialId": key.material()})
		}
	default:
		refuse(w, 400, "UnknownOperationException", "")
	}
}

// usable finds a key by ARN or ID. If it may not be used the refusal is written.
func (f *Fake) usable(w http.ResponseWriter, id string) (*kmsKey, string) {
	for arn, key := range f.keys {
		if arn != id && !strings.HasSuffix(arn, ":key/"+id) {
			continue
		}
		switch key.state {
		case "Enabled":
			return key, arn
		case "Disabled":
			refuse(w, 400, "DisabledException", arn+" is disabled.")
		default:
			refuse(w, 400, "KMSInvalidStateException", arn+" is pending deletion.")
		}
		return nil, ""
	}
	refuse(w, 400, "NotFoundException", "Key '"+id+"' does not exist")
	return nil, ""
}

func (f *Fake) open(w http.ResponseWriter, id string, context map[string]string, blob []byte) (plaintext []byte, arn string) {
	key, arn := f.usable(w, id)
	if key == nil {
		return nil, ""
	}
	for other, k := range f.keys {
		for i, material := range k.materials {
			prefix := header(other, i)
			if !strings.HasPrefix(string(blob), prefix) {
				continue
			}
			if k != key {
				refuse(w, 400, "IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
				return nil, ""
			}
			if plaintext, err := aead(material).Open(nil, nil, blob[len(prefix):], associated(prefix, context)); err == nil {
				return plaintext, arn
			}
		}
	}
	refuse(w, 400, "InvalidCiphertextException", "")
	return nil, ""
}

func header(arn string, material int) string {
	return fmt.Sprintf("\x01\x02\x02\x00x%s/%03d", arn[len(arn)-36:], material)
}

func (k *kmsKey) material() string { return hex.EncodeToString(k.materials[len(k.materials)-1]) }

func (k *kmsKey) seal(arn string, context map[string]string, plaintext []byte) []byte {
	prefix := header(arn, len(k.materials)-1)
	return aead(k.materials[len(k.materials)-1]).Seal([]byte(prefix), nil, plaintext, associated(prefix, context))
}

func aead(material []byte) cipher.AEAD {
	block, _ := aes.NewCipher(material)
	aead, _ := cipher.NewGCMWithRandomNonce(block)
	return aead
}

func associated(prefix string, context map[string]string) []byte {
	out := fmt.Appendf(nil, "%q", prefix)
	for _, name := range slices.Sorted(maps.Keys(context)) {
		out = fmt.Appendf(out, "%q=%q", name, context[name])
	}
	return out
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]string{"__type": code, "message": message})
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	json.NewEncoder(w).Encode(v)
}
