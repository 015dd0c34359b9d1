// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/voluks/voluks/internal/lateregexp"
)

// A run of letters as long as 32 bytes are in base64 (43 without padding) or hexadecimal. Thumbprints and long paths may look so too, and are the
// price: this text goes into errors, logs and Docker's answers.
var keyLike = lateregexp.New(`[A-Za-z0-9+/_-]{40,}=*`)

// Text makes one line of what a program or a server complained, with nothing in it that could be a key or move a cursor: not even one that repeats
// its input shall leak it.
func Text(b []byte) string {
	text := strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, string(b))
	if !utf8.Valid(b) && strings.Count(text, string(utf8.RuneError)) > 1 { // one may be a character cut in two at the end
		return fmt.Sprintf("(%d bytes that are not text)", len(b))
	}
	return keyLike().ReplaceAllString(strings.Join(strings.Fields(text), " "), "[hidden]")
}
