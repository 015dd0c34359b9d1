// SPDX-License-Identifier: Apache-2.0

// Package policy reads the policies of Clevis: pins with their configurations, and what a JWE says of those that made it. It asks nobody.
package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"slices"
	"strings"

	"github.com/voluks/voluks/internal/lateregexp"
)

// Policy is one pin with its configuration, and for "sss" the pins below it.
type Policy struct {
	pin       string
	config    map[string]any // as clevis takes it
	threshold int
	below     []*Policy
}

// PINFile is where clevis looks for the PIN of a token. It should be gone after the next boot, and is, there.
const PINFile = "/run/systemd/clevis-pkcs11.pin"

var thumbprint = lateregexp.New(`^[A-Za-z0-9_-]{1,128}$`)

// maxDepth bounds how deep sss may nest.
const maxDepth = 4

// CheckPin says why there is no such pin here, or returns nil.
func CheckPin(pin string) error {
	switch pin {
	case "tang", "tpm2", "pkcs11", "sss":
		return nil
	case "null":
		return errors.New("the pin null protects nothing")
	}
	return fmt.Errorf("%q is not one of the pins tang, tpm2, pkcs11 and sss", pin)
}

// Parse reads the configuration of a pin, with the defaults filled in that versions of clevis differ in, so that it says what is in a JWE.
func Parse(pin, text string) (*Policy, error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var config map[string]any
	if err := decoder.Decode(&config); err != nil {
		return nil, fmt.Errorf("is not a JSON object, as clevis takes it: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("has more in it than one JSON object")
	}
	return parse(pin, config, 1)
}

func parse(pin string, config map[string]any, depth int) (*Policy, error) {
	p := &Policy{pin: pin, config: config}
	if err := CheckPin(pin); err != nil {
		return nil, err
	}
	check := map[string]func() error{"tang": p.checkTang, "tpm2": p.completeTPM, "pkcs11": p.checkToken, "sss": func() error { return p.readShares(depth) }}
	return p, check[pin]()
}

func (p *Policy) checkTang() error {
	address, _ := p.config["url"].(string)
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return fmt.Errorf(`the pin tang needs a "url", http://HOST or https://HOST, not %q`, address)
	}
	if thp, ok := p.config["thp"]; ok {
		if text, _ := thp.(string); !thumbprint().MatchString(text) {
			return fmt.Errorf(`the "thp" of the tang server %s is not a thumbprint`, address)
		}
	} else if p.config["adv"] == nil {
		// Else clevis asks on a terminal that there is none.
		return fmt.Errorf(`the tang server %s needs a "thp", the thumbprint of its signing key ("tang-show-keys" there tells it), or an "adv"; without one, whoever answers first is trusted`,
			address)
	}
	return nil
}

func (p *Policy) completeTPM() error {
	defaults := map[string]string{"hash": "sha256", "key": "ecc"}
	if ids, ok := p.config["pcr_ids"]; ok {
		defaults["pcr_bank"] = "sha256"
		if list, isList := ids.([]any); isList {
			ids = strings.Trim(strings.Join(strings.Fields(fmt.Sprint(list)), ","), "[]")
		}
		if text, _ := ids.(string); text == "" || strings.Trim(text, "0123456789,") != "" {
			return errors.New(`"pcr_ids" is not a list of numbers such as "7,11"`)
		}
		p.config["pcr_ids"] = ids
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

func (p *Policy) checkToken() error {
	uri, _ := p.config["uri"].(string)
	if !strings.HasPrefix(uri, "pkcs11:") {
		return errors.New(`the pin pkcs11 needs a "uri" of a token`)
	}
	switch {
	case strings.Contains(uri, "pin-value"):
		return errors.New("pin-value would show the PIN of the token to everybody on this node, and in each header: put it into " + PINFile)
	case strings.Contains(uri, "pin-source"):
		return errors.New("clevis does not know pin-source: put the PIN of the token into " + PINFile)
	}
	return nil
}

func (p *Policy) readShares(depth int) error {
	pins, ok := p.config["pins"].(map[string]any)
	if !ok || depth == maxDepth {
		return fmt.Errorf(`the pin sss needs "pins", an object of pins, at most %d deep`, maxDepth)
	}
	for pin, given := range pins {
		configs, isList := given.([]any)
		if !isList {
			configs = []any{given}
		}
		for _, config := range configs {
			object, ok := config.(map[string]any)
			if !ok {
				return fmt.Errorf("the configuration of the pin %s in sss is not an object", pin)
			}
			below, err := parse(pin, object, depth+1)
			if err != nil {
				return err
			}
			p.below = append(p.below, below)
		}
	}
	t, _ := p.config["t"].(json.Number)
	n, err := t.Int64()
	if err != nil || n < 1 || int(n) > len(p.below) {
		return fmt.Errorf(`the pin sss needs "t", the number of pins that suffice, from 1 to the %d that there are`, len(p.below))
	}
	p.threshold = int(n)
	return nil
}

// all are the policy and those below it.
func (p *Policy) all() iter.Seq[*Policy] {
	return func(yield func(*Policy) bool) {
		if !yield(p) {
			return
		}
		for _, below := range p.below {
			for q := range below.all() {
				if !yield(q) {
					return
				}
			}
		}
	}
}

// Text is the configuration as clevis gets it.
func (p *Policy) Text() string { return encode(p.config) }

// encode writes what came from JSON, in one way only.
func encode(v any) string {
	out, _ := json.Marshal(v)
	return string(out)
}

func fingerprint(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

// ID names the policy, without what changes when a tang server's keys are rotated.
func (p *Policy) ID() string { return p.pin + ":" + fingerprint(p.lasting()) }

// lasting is the policy without the thumbprints of tang servers.
func (p *Policy) lasting() string {
	if p.pin == "sss" {
		var below []string
		for _, q := range p.below {
			below = append(below, q.lasting())
		}
		slices.Sort(below)
		return encode(map[string]any{"pin": p.pin, "t": p.threshold, "pins": below})
	}
	config := map[string]any{}
	for name, value := range p.config {
		if name != "thp" && name != "adv" {
			config[name] = value
		}
	}
	return encode(map[string]any{"pin": p.pin, "config": config})
}

// Version stands for what ID leaves out: the thumbprint of a tang server, a fingerprint of those of several, "" where there is none.
func (p *Policy) Version() string {
	var trusted []string
	for q := range p.all() {
		if thp, ok := q.config["thp"].(string); ok && q.pin == "tang" {
			trusted = append(trusted, thp)
		} else if q.pin == "tang" {
			trusted = append(trusted, fingerprint(encode(q.config["adv"])))
		}
	}
	if len(trusted) < 2 {
		return strings.Join(trusted, "")
	}
	slices.Sort(trusted)
	return fingerprint(strings.Join(trusted, "\n"))
}

// Pins are the pins in use, each once.
func (p *Policy) Pins() []string {
	var pins []string
	for q := range p.all() {
		pins = append(pins, q.pin)
	}
	slices.Sort(pins)
	return slices.Compact(pins)
}

// Servers are the addresses of the tang servers in use, each once.
func (p *Policy) Servers() []string {
	var urls []string
	for q := range p.all() {
		if q.pin == "tang" {
			urls = append(urls, q.config["url"].(string))
		}
	}
	slices.Sort(urls)
	return slices.Compact(urls)
}
