// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// Share is what a tang server has part in.
type Share struct {
	URL string // of the server
	Key string // the thumbprint of its key
}

// header is the protected header of a JWE. Its names are looked up as clevis does, letter by letter: encoding/json takes "Pin" for "pin" in a struct, and
// would be told one thing where clevis is told another.
type header map[string]any

func readHeader(jwe []byte) (header, error) {
	if bytes.Count(jwe, []byte(".")) != 4 {
		return nil, errors.New("is not a JWE in compact form")
	}
	head, _, _ := bytes.Cut(jwe, []byte("."))
	decoded := make([]byte, base64.RawURLEncoding.DecodedLen(len(head)))
	n, err := base64.RawURLEncoding.Decode(decoded, head)
	if err != nil {
		return nil, errors.New("has a header that is not base64")
	}
	var h header
	if err := json.Unmarshal(decoded[:n], &h); err != nil {
		return nil, errors.New("has a header that is not a JSON object")
	}
	return h, nil
}

// pin is the pin that a header names, and what it says for it.
func (h header) pin() (pin string, says map[string]any) {
	clevis, _ := h["clevis"].(map[string]any)
	pin, _ = clevis["pin"].(string)
	says, _ = clevis[pin].(map[string]any)
	return pin, says
}

// Made fails unless the policy can have made a JWE. The header of a volume can be changed by whoever has the disk, and what a JWE says is done:
// servers are asked, modules are loaded. So it must say what the configuration says. It returns what tang servers have part in it.
func (p *Policy) Made(jwe []byte) ([]Share, error) {
	h, err := readHeader(jwe)
	if err != nil {
		return nil, err
	}
	pin, says := h.pin()
	if pin != p.pin {
		return nil, fmt.Errorf("is of the pin %q, not %s", pin, p.pin)
	}
	same := map[string][]string{"tang": {"url"}, "tpm2": {"hash", "key", "pcr_bank", "pcr_ids"}, "pkcs11": {"uri", "mechanism"}}
	for _, name := range same[pin] {
		if given, isText := says[name].(string); given != text(p.config[name]) || !isText && says[name] != nil {
			return nil, fmt.Errorf("says %s = %q", name, fmt.Sprint(says[name]))
		}
	}
	switch pin {
	case "sss":
		return p.madeShares(says)
	case "tang":
		key, _ := h["kid"].(string)
		return []Share{{URL: text(says["url"]), Key: key}}, nil
	}
	return nil, nil
}

// text is a setting, and "" for one that is not there.
func text(v any) string {
	s, _ := v.(string)
	return s
}

func (p *Policy) madeShares(says map[string]any) (all []Share, err error) {
	jwes, _ := says["jwe"].([]any)
	if says["t"] != float64(p.threshold) || len(jwes) != len(p.below) {
		return nil, fmt.Errorf("is %v of %d", says["t"], len(jwes))
	}
	left := slices.Clone(p.below)
	for _, jwe := range jwes {
		i := slices.IndexFunc(left, func(q *Policy) bool {
			shares, err := q.Made([]byte(text(jwe)))
			if err == nil {
				all = append(all, shares...)
			}
			return err == nil
		})
		if i < 0 {
			return nil, errors.New("has a share that the policy does not have")
		}
		left = slices.Delete(left, i, i+1)
	}
	return all, nil
}
