// SPDX-License-Identifier: Apache-2.0

package clevis

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// policy is one pin with its configuration, and for "sss" the pins below it.
type policy struct {
	pin       string
	config    map[string]any // as clevis takes it; of sss without its pins
	threshold int
	below     []policy
}

var thumbprint = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// maxDepth bounds how deep sss may nest.
const maxDepth = 4

// parsePolicy reads the configuration of a pin, with the defaults filled in that versions of clevis differ in, so that it says what is in a JWE.
func parsePolicy(pin, text string) (policy, error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var config map[string]any
	if err := decoder.Decode(&config); err != nil {
		return policy{}, fmt.Errorf("is not a JSON object, as clevis takes it: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return policy{}, errors.New("has more in it than one JSON object")
	}
	return newPolicy(pin, config, 1)
}

func newPolicy(pin string, config map[string]any, depth int) (policy, error) {
	p := policy{pin: pin, config: config}
	switch pin {
	case "tang":
		return p, p.checkTang()
	case "tpm2":
		return p, p.completeTPM()
	case "pkcs11":
		uri, ok := config["uri"].(string)
		if !ok || !strings.HasPrefix(uri, "pkcs11:") {
			return p, errors.New(`the pin pkcs11 needs a "uri" of a token`)
		}
		if strings.Contains(uri, "pin-value") {
			return p, errors.New("pin-value would show the PIN of the token to everybody on this node, and in each header: use pin-source")
		}
		return p, nil
	case "sss":
		return p, p.readShares(depth)
	case "null":
		return p, errors.New("the pin null protects nothing")
	}
	return p, fmt.Errorf("%q is not one of the pins tang, tpm2, pkcs11 and sss", pin)
}

func (p *policy) checkTang() error {
	address, _ := p.config["url"].(string)
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return fmt.Errorf(`the pin tang needs a "url", http://HOST or https://HOST, not %q`, address)
	}
	if thp, ok := p.config["thp"]; ok {
		if text, _ := thp.(string); !thumbprint.MatchString(text) {
			return fmt.Errorf(`the "thp" of the tang server %s is not a thumbprint`, address)
		}
	}
	if p.config["thp"] == nil && p.config["adv"] == nil {
		// Else clevis asks on a terminal that there is none.
		return fmt.Errorf(`the tang server %s needs a "thp", the thumbprint of its signing key ("tang-show-keys" there tells it), or an "adv"; without one, whoever answers first is trusted`,
			address)
	}
	return nil
}

func (p *policy) completeTPM() error {
	defaults := map[string]string{"hash": "sha256", "key": "ecc"}
	if ids, ok := p.config["pcr_ids"]; ok {
		defaults["pcr_bank"] = "sha256"
		list, ok := ids.(string)
		if many, isList := ids.([]any); isList {
			list, ok = join(many), true
		}
		if !ok || list == "" || strings.Trim(list, "0123456789,") != "" {
			return fmt.Errorf(`"pcr_ids" is not a list of numbers such as "7,11"`)
		}
		p.config["pcr_ids"] = list
	}
	for name, value := range defaults {
		if p.config[name] == nil {
			p.config[name] = value
		}
		if _, ok := p.config[name].(string); !ok {
			return fmt.Errorf("%q is not a text", name)
		}
	}
	return nil
}

func join(list []any) string {
	var out []string
	for _, v := range list {
		out = append(out, fmt.Sprint(v))
	}
	return strings.Join(out, ",")
}

func (p *policy) readShares(depth int) error {
	pins, ok := p.config["pins"].(map[string]any)
	if !ok || depth == maxDepth {
		return fmt.Errorf(`the pin sss needs "pins", an object of pins, at most %d deep`, maxDepth)
	}
	for _, pin := range sorted(pins) {
		configs, isList := pins[pin].([]any)
		if !isList {
			configs = []any{pins[pin]}
		}
		for _, config := range configs {
			object, ok := config.(map[string]any)
			if !ok {
				return fmt.Errorf("the configuration of the pin %s in sss is not an object", pin)
			}
			below, err := newPolicy(pin, object, depth+1)
			if err != nil {
				return err
			}
			p.below = append(p.below, below)
		}
	}
	t, ok := p.config["t"].(json.Number)
	n, err := t.Int64()
	if !ok || err != nil || n < 1 || int(n) > len(p.below) {
		return fmt.Errorf(`the pin sss needs "t", the number of pins that suffice, from 1 to the %d that there are`, len(p.below))
	}
	p.threshold = int(n)
	return nil
}

func sorted[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// text is the configuration as clevis gets it.
func (p *policy) text() (string, error) {
	out, err := json.Marshal(p.config)
	return string(out), err
}

// id names the policy, without what changes when a tang server's keys are rotated.
func (p *policy) id() (string, error) {
	canonical, err := json.Marshal(p.lasting())
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(canonical)
	return p.pin + ":" + hex.EncodeToString(sum[:8]), nil
}

// lasting is the policy as a value that JSON writes in one way only.
func (p *policy) lasting() map[string]any {
	out := map[string]any{"pin": p.pin}
	if p.pin == "sss" {
		var below []string
		for _, q := range p.below {
			encoded, _ := json.Marshal(q.lasting()) // it came from JSON
			below = append(below, string(encoded))
		}
		slices.Sort(below)
		out["t"], out["pins"] = p.threshold, below
		return out
	}
	config := map[string]any{}
	for name, value := range p.config {
		if name != "thp" && name != "adv" {
			config[name] = value
		}
	}
	out["config"] = config
	return out
}

// version stands for what lasting leaves out: the thumbprint of a tang server, a fingerprint of those of several, "" where there is none.
func (p *policy) version() string {
	trusted := p.trusted()
	if len(trusted) < 2 {
		return strings.Join(trusted, "")
	}
	slices.Sort(trusted)
	sum := sha256.Sum256([]byte(strings.Join(trusted, "\n")))
	return hex.EncodeToString(sum[:8])
}

// trusted are the thumbprints of the tang servers, or fingerprints of what stands in their place.
func (p *policy) trusted() (all []string) {
	if p.pin == "tang" {
		if thp, ok := p.config["thp"].(string); ok {
			return []string{thp}
		}
		encoded, _ := json.Marshal(p.config["adv"]) // it came from JSON
		sum := sha256.Sum256(encoded)
		return []string{hex.EncodeToString(sum[:8])}
	}
	for _, below := range p.below {
		all = append(all, below.trusted()...)
	}
	return all
}

// programs are the pins in use, each once.
func (p *policy) pins() []string {
	pins := []string{p.pin}
	for _, below := range p.below {
		pins = append(pins, below.pins()...)
	}
	slices.Sort(pins)
	return slices.Compact(pins)
}

// servers are the tang servers in use, each once.
func (p *policy) servers() []string {
	var urls []string
	if p.pin == "tang" {
		urls = append(urls, p.config["url"].(string))
	}
	for _, below := range p.below {
		urls = append(urls, below.servers()...)
	}
	slices.Sort(urls)
	return slices.Compact(urls)
}

// header is the protected header of a JWE, as far as it says how to decrypt.
type header struct {
	KeyID  string `json:"kid"` // of tang: the thumbprint of the server's key
	Epk    struct{ Crv string }
	Clevis struct {
		Pin    string
		Tang   struct{ URL string }
		TPM2   map[string]any
		PKCS11 map[string]any
		SSS    struct {
			T   int
			JWE []string
		}
	}
}

// parse reads the protected header of a JWE in its compact form.
func parse(jwe []byte) (*header, error) {
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
		return nil, errors.New("has a header that is not JSON")
	}
	return &h, nil
}

// made says whether the policy can have made a JWE. The header of a volume can be changed by whoever has the disk, and what a JWE says is done:
// servers are asked, modules are loaded. So it must say what the configuration says.
func (p *policy) made(jwe []byte) (*header, error) {
	h, err := parse(jwe)
	if err != nil {
		return nil, err
	}
	if h.Clevis.Pin != p.pin {
		return nil, fmt.Errorf("is of the pin %q, not %s", h.Clevis.Pin, p.pin)
	}
	switch p.pin {
	case "tang":
		if h.Clevis.Tang.URL != p.config["url"] {
			return nil, fmt.Errorf("names the tang server %q", h.Clevis.Tang.URL)
		}
	case "tpm2":
		err = p.same(h.Clevis.TPM2, "hash", "key", "pcr_bank", "pcr_ids")
	case "pkcs11":
		err = p.same(h.Clevis.PKCS11, "uri")
	case "sss":
		err = p.madeShares(h)
	}
	return h, err
}

func (p *policy) same(in map[string]any, names ...string) error {
	for _, name := range names {
		if in[name] != p.config[name] {
			return fmt.Errorf("says %s = %q", name, fmt.Sprint(in[name]))
		}
	}
	return nil
}

func (p *policy) madeShares(h *header) error {
	if h.Clevis.SSS.T != p.threshold || len(h.Clevis.SSS.JWE) != len(p.below) {
		return fmt.Errorf("is %d of %d", h.Clevis.SSS.T, len(h.Clevis.SSS.JWE))
	}
	left := slices.Clone(p.below)
	for _, jwe := range h.Clevis.SSS.JWE {
		i := slices.IndexFunc(left, func(q policy) bool { _, err := q.made([]byte(jwe)); return err == nil })
		if i < 0 {
			return errors.New("has a share that the policy does not have")
		}
		left = slices.Delete(left, i, i+1)
	}
	return nil
}
