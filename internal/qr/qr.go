// SPDX-License-Identifier: Apache-2.0

// Package qr shows a secret as a QR code in a terminal, so that a phone or a printer can take it off the screen instead of a person copying 70 letters.
//
// The symbol itself is made by rsc.io/qr, which is small and has no dependencies. It takes a string, and the copies that it makes cannot be wiped; what
// this package makes is in locked memory.
package qr

import (
	"fmt"
	"io"

	"rsc.io/qr"

	"github.com/voluks/voluks/internal/secret"
)

// Style says how a terminal shows dark and light.
type Style int

const (
	// Colored sets black on white by escape sequences: right on any terminal that knows them.
	Colored Style = iota
	// Plain has no escape sequences and takes the terminal's background for dark. On a light one the code appears inverted, which some readers refuse.
	Plain
)

// Two rows of modules make one line of text, since a character is about twice as high as wide.
var blocks = [2][2]string{{" ", "▄"}, {"▀", "█"}} // by upper and lower half: drawn or not

const (
	quiet = 4 // light modules around the symbol, as the standard wants

	black = "\x1b[30;107m" // black on bright white
	reset = "\x1b[0m"
)

// Write encodes content and writes the code to w, in one piece. A key of 71 lower case letters takes 41 columns and 21 lines, a share 45 and 23: both fit
// a terminal of 80 by 24. Content that is too long for any code is an error. The content is borrowed.
func Write(w io.Writer, content *secret.Key, style Style) error {
	code, err := encode(string(content.Bytes()))
	if err != nil {
		return fmt.Errorf("make a QR code of %d bytes: %w", content.Len(), err)
	}
	defer clear(code.Bitmap)
	side := code.Size + 2*quiet
	lines := (side + 1) / 2
	room, err := secret.New(lines * (3*side + len(black) + len(reset) + 1))
	if err != nil {
		return fmt.Errorf("show a QR code: %w", err)
	}
	defer room.Wipe()
	out := room.Bytes()[:0]
	for y := 0; y < side; y += 2 {
		if style == Colored {
			out = append(out, black...)
		}
		for x := range side {
			up, low := code.Black(x-quiet, y-quiet), code.Black(x-quiet, y+1-quiet)
			if style == Plain {
				// What is drawn is light. Below an odd last row there is no half row to draw.
				up, low = !up, !low && y+1 < side
			}
			out = append(out, blocks[bit(up)][bit(low)]...)
		}
		if style == Colored {
			out = append(out, reset...)
		}
		out = append(out, '\n')
	}
	if _, err := w.Write(out); err != nil {
		return fmt.Errorf("show a QR code: %w", err)
	}
	return nil
}

// encode takes the smallest code, and of its levels of error correction the highest that does not enlarge it.
func encode(text string) (*qr.Code, error) {
	best, err := qr.Encode(text, qr.L)
	if err != nil {
		return nil, err
	}
	for level := qr.M; level <= qr.H; level++ {
		better, err := qr.Encode(text, level)
		if err != nil || better.Size > best.Size {
			break
		}
		clear(best.Bitmap)
		best = better
	}
	return best, nil
}

func bit(set bool) int {
	if set {
		return 1
	}
	return 0
}
