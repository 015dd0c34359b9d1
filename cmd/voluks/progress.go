// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/voluks/voluks/internal/config"
)

// tellEvery is how often progress is told on what is no terminal.
const tellEvery = 30 * time.Second

// progressLine shows how far long work is: a line that changes on a terminal, a line now and then elsewhere, nothing with JSON.
type progressLine struct {
	e     *env
	what  string
	every time.Duration // between two lines elsewhere

	began, shown time.Time
	first        int64
	drawn        bool
}

func (p *progressLine) show(done, total int64) {
	now := time.Now()
	if p.began.IsZero() {
		p.began, p.first = now, done
	}
	if p.e.json || total <= 0 {
		return
	}
	f, ok := p.e.stderr.(*os.File)
	terminal := ok && term.IsTerminal(int(f.Fd()))
	pause := p.every
	if terminal {
		pause = 200 * time.Millisecond
	}
	if !terminal && now.Sub(p.began) < pause || now.Sub(p.shown) < pause && done < total {
		return
	}
	p.shown = now
	text := fmt.Sprintf("%s: %.1f %% of %s", p.what, 100*float64(done)/float64(total), config.FormatSize(total))
	if spent := now.Sub(p.began); spent > time.Second && done > p.first {
		speed := float64(done-p.first) / spent.Seconds()
		left := time.Duration(float64(total-done) / speed * float64(time.Second)).Round(time.Second)
		text += fmt.Sprintf(", %s/s, %s left", config.FormatSize(int64(speed)), left)
	}
	if !terminal {
		fmt.Fprintln(p.e.stderr, text)
		return
	}
	const width = 30
	full := int(width * done / total)
	fmt.Fprintf(p.e.stderr, "\r\x1b[K[%s%s] %s", strings.Repeat("#", full), strings.Repeat(" ", width-full), text)
	p.drawn = true
}

func (p *progressLine) end() {
	if p.drawn {
		fmt.Fprint(p.e.stderr, "\r\x1b[K")
	}
}
