// SPDX-License-Identifier: Apache-2.0

package exec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/subprocess"
	"github.com/voluks/voluks/internal/kek/wire"
	"github.com/voluks/voluks/internal/secret"
)

// maxAnswer is a wrap of the greatest length in base64, and words.
const maxAnswer = 32 << 10

// request is what the program gets on its standard input: one JSON object. For "wrap" there is one more member, plaintext.
type request struct {
	Protocol   int    `json:"protocol"`
	Operation  string `json:"operation"`
	Volume     string `json:"volume"`
	Role       string `json:"role"`
	KeyID      string `json:"key_id"`
	KeyVersion string `json:"key_version,omitempty"`
	Wrap       []byte `json:"wrap,omitempty"`
}

// answer is what it writes to its standard output: one JSON object. Members that are not known are ignored.
type answer struct {
	Plaintext  []byte `json:"plaintext"`
	Wrap       []byte `json:"wrap"`
	KeyVersion string `json:"key_version"`
	Error      string `json:"error"`
	Message    string `json:"message"`
}

// errs are the values of "error".
var errs = map[string]error{
	"unavailable": kek.ErrUnavailable,
	"denied":      kek.ErrDenied,
	"disabled":    kek.ErrDisabled,
	"not_found":   kek.ErrNotFound,
	"not_mine":    kek.ErrNotMine,
	"wrong_key":   kek.ErrWrongKey,
	"unsupported": errors.ErrUnsupported,
}

// ask runs the program once. The plaintext, which is borrowed, may be nil. That of the answer is the caller's to clear.
func (p *provider) ask(ctx context.Context, operation string, b kek.Binding, version string, wrap []byte, plaintext *secret.Key) (*answer, error) {
	input, err := wire.Object(request{Protocol: 1, Operation: operation, Volume: b.VolumeUUID, Role: b.Role, KeyID: p.ref.ID, KeyVersion: version, Wrap: wrap}, "plaintext", plaintext)
	if err != nil {
		return nil, err
	}
	defer input.Wipe()
	// The environment is handed on: helpers find their region, proxy or account there.
	out, err := subprocess.Cmd{Argv: p.settings.Command, Env: os.Environ(), Stdin: input.Bytes(), MaxOut: maxAnswer}.Run(ctx)
	if err != nil {
		return nil, p.failed(operation, err)
	}
	defer out.Wipe()
	var got answer
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		clear(got.Plaintext)
		// What it wrote instead may be anything, a key too, and is not shown.
		return nil, fmt.Errorf("%s: %w", operation, p.at.Bad("command", "%s does not answer with one JSON object", p.settings.Command[0]))
	}
	if got.Error == "" {
		return &got, nil
	}
	clear(got.Plaintext)
	known, ok := errs[got.Error]
	if !ok {
		return nil, fmt.Errorf("%s: %w", operation, p.at.Bad("command", "%s answers with the unknown error %q", p.settings.Command[0], wire.Text([]byte(got.Error))))
	}
	return nil, fmt.Errorf("%s: %s: %w: %s", operation, p.settings.Command[0], known, wire.Text([]byte(got.Message)))
}

// failed sorts the failures of a program that gave no answer. An exit status says nothing about what went wrong: it may be the network.
func (p *provider) failed(operation string, err error) error {
	var exit *subprocess.ExitError
	setting := p.at.Bad("command", "%w", err)
	if errors.As(err, &exit) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("%s: %w: %w", operation, kek.ErrUnavailable, setting)
	}
	return fmt.Errorf("%s: %w", operation, setting)
}
