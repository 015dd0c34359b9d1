// SPDX-License-Identifier: Apache-2.0

// Command kek-helper is an example of a program for the key provider "exec" of voluks: it speaks the protocol of docs/key-providers.md, with keys
// in a directory (1.key, 2.key, ... of 32 bytes each; the highest number wraps). To make it one for your key service replace the type keys.
//
//	[kek]
//	provider = "exec"
//	[kek.exec]
//	command = ["/usr/local/lib/voluks/kek-helper", "/path/of/keys"]
//	id = "example"
package main

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

type request struct {
	Protocol   int    `json:"protocol"`
	Operation  string `json:"operation"` // wrap, unwrap or rewrap
	Volume     string `json:"volume"`    // its UUID; like the role, it is to be authenticated where that is possible
	Role       string `json:"role"`
	KeyID      string `json:"key_id"`      // as in the configuration
	KeyVersion string `json:"key_version"` // as this program answered when it wrapped
	Plaintext  []byte `json:"plaintext"`   // for wrap: 32 bytes in base64, which encoding/json decodes
	Wrap       []byte `json:"wrap"`        // for unwrap and rewrap
}

type answer struct {
	Plaintext  []byte `json:"plaintext,omitempty"` // of unwrap
	Wrap       []byte `json:"wrap,omitempty"`      // of wrap and rewrap
	KeyVersion string `json:"key_version,omitempty"`
	Error      string `json:"error,omitempty"` // unavailable, denied, disabled, not_found, not_mine, wrong_key or unsupported
	Message    string `json:"message,omitempty"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: kek-helper DIRECTORY <REQUEST >ANSWER")
		os.Exit(2)
	}
	var r request
	if err := json.NewDecoder(io.LimitReader(os.Stdin, 64<<10)).Decode(&r); err != nil {
		fmt.Fprintln(os.Stderr, "kek-helper: read the request:", err)
		os.Exit(1)
	}
	// An exit status other than 0 means "try again later". What does not pass is told in the answer.
	if err := json.NewEncoder(os.Stdout).Encode(handle(keys(os.Args[1]), r)); err != nil {
		fmt.Fprintln(os.Stderr, "kek-helper: write the answer:", err)
		os.Exit(1)
	}
}

func handle(k keys, r request) answer {
	plaintext := r.Plaintext
	if r.Operation != "wrap" {
		var err error
		if plaintext, err = k.decrypt(r); err != nil {
			return failure(err)
		}
	}
	switch r.Operation {
	case "unwrap":
		return answer{Plaintext: plaintext}
	case "wrap", "rewrap":
		wrap, version, err := k.encrypt(r, plaintext)
		if err != nil {
			return failure(err)
		}
		return answer{Wrap: wrap, KeyVersion: version}
	}
	return answer{Error: "unsupported", Message: "operation " + r.Operation}
}

var errWrongKey = errors.New("the wrap does not open")

func failure(err error) answer {
	switch {
	case errors.Is(err, errWrongKey):
		return answer{Error: "wrong_key", Message: err.Error()}
	case errors.Is(err, os.ErrNotExist):
		return answer{Error: "not_found", Message: err.Error()}
	case errors.Is(err, os.ErrPermission):
		return answer{Error: "denied", Message: err.Error()}
	}
	return answer{Error: "unavailable", Message: err.Error()}
}

// keys stands for a key service.
type keys string

func (k keys) encrypt(r request, plaintext []byte) (wrap []byte, version string, err error) {
	newest := 0
	for ; ; newest++ {
		if _, err := os.Stat(k.path(newest + 1)); errors.Is(err, os.ErrNotExist) {
			break
		} else if err != nil {
			return nil, "", err
		}
	}
	aead, err := k.cipher(newest)
	if err != nil {
		return nil, "", err
	}
	return aead.Seal(nil, nil, plaintext, associated(r)), strconv.Itoa(newest), nil
}

func (k keys) decrypt(r request) ([]byte, error) {
	version, err := strconv.Atoi(r.KeyVersion)
	if err != nil {
		return nil, fmt.Errorf("%w: no version %q", errWrongKey, r.KeyVersion)
	}
	aead, err := k.cipher(version)
	if err != nil {
		return nil, err
	}
	plaintext, err := aead.Open(nil, nil, r.Wrap, associated(r))
	if err != nil {
		return nil, errWrongKey
	}
	return plaintext, nil
}

func (k keys) path(version int) string { return filepath.Join(string(k), strconv.Itoa(version)+".key") }

func (k keys) cipher(version int) (cipher.AEAD, error) {
	key, err := os.ReadFile(k.path(version))
	if err != nil {
		return nil, err
	}
	defer clear(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// associated ties a wrap to its volume and role.
func associated(r request) []byte { return fmt.Appendf(nil, "%q %q", r.Volume, r.Role) }
