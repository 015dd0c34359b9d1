// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/voluks/voluks/internal/secret"
)

// Object returns the JSON object that public encodes to with one more member: key, in standard base64; without it if key is nil. The caller wipes it.
// encoding/json alone would leave copies of the key in buffers that nobody can wipe.
func Object(public any, member string, key *secret.Key) (*secret.Key, error) {
	head, err := json.Marshal(public)
	if err != nil {
		return nil, fmt.Errorf("encode a request: %w", err)
	}
	name, err := json.Marshal(member)
	if err != nil {
		return nil, fmt.Errorf("encode a request: %w", err)
	}
	if head[0] != '{' {
		return nil, fmt.Errorf("encode a request: not an object: %s", head)
	}
	if key == nil {
		return secret.Move(head)
	}
	head = head[:len(head)-1]
	if len(head) > 1 {
		head = append(head, ',')
	}
	head = append(append(head, name...), ':', '"')
	encoded := base64.StdEncoding.EncodedLen(key.Len())
	out, err := secret.New(len(head) + encoded + len(`"}`))
	if err != nil {
		return nil, err
	}
	b := out.Bytes()
	copy(b, head)
	base64.StdEncoding.Encode(b[len(head):], key.Bytes())
	copy(b[len(head)+encoded:], `"}`)
	return out, nil
}
