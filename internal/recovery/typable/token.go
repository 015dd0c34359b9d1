// SPDX-License-Identifier: Apache-2.0

package typable

import (
	"encoding/json"
	"strconv"
)

// TokenType is the type of the token that marks a slot as holding such a key.
const TokenType = "systemd-recovery"

// Token returns the JSON of the token for a slot, member by member what systemd-cryptenroll writes. It is for a header that has the slot already: LUKS2
// refuses a token for one that is not there. systemd adds the slot first, too, and takes it back if the token fails.
func Token(slot int) []byte {
	b, err := json.Marshal(struct {
		Type     string   `json:"type"`
		Keyslots []string `json:"keyslots"`
	}{TokenType, []string{strconv.Itoa(slot)}})
	if err != nil {
		panic(err) // strings always encode
	}
	return b
}
