// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/voluks/voluks/internal/config"
	"github.com/voluks/voluks/internal/recovery"
	"github.com/voluks/voluks/internal/secret"
)

// person sits at a terminal: sees what is printed on it, and types.
type person struct {
	t      *testing.T
	master *os.File
	mu     sync.Mutex
	seen   bytes.Buffer
}

// terminal makes a pseudo-terminal and an env on it.
func terminal(t *testing.T) (*person, *env) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var number, unlock int32
	ioctl := func(request uintptr, arg *int32) {
		if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, master.Fd(), request, uintptr(unsafe.Pointer(arg))); errno != 0 {
			t.Fatal(errno)
		}
	}
	ioctl(syscall.TIOCSPTLCK, &unlock)
	ioctl(syscall.TIOCGPTN, &number)
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := &person{t: t, master: master}
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			p.mu.Lock()
			p.seen.Write(buf[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() { tty.Close(); master.Close() })
	return p, &env{stdin: tty, stdout: tty, stderr: tty, root: t.TempDir()}
}

// text is the screen.
func (p *person) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

// sees waits until the screen matches, and returns the match.
func (p *person) sees(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if m := re.FindStringSubmatch(p.text()); m != nil {
			return m
		}
	}
	p.t.Fatalf("never saw %s, only:\n%s", pattern, p.text())
	return nil
}

func (p *person) types(line string) { fmt.Fprintln(p.master, line) }

// background runs voluks and returns its exit status.
func background(e *env, args ...string) chan int {
	status := make(chan int, 1)
	go func() { status <- run(append([]string{"voluks", "--root", e.root}, args...), e) }()
	return status
}

// The identity is shown once; its end is typed back; what stays is its recipient. F41
func TestInitOnATerminal(t *testing.T) {
	p, e := terminal(t)
	status := background(e, "init")
	identity := p.sees(`(AGE-SECRET-KEY-1[0-9A-Z]+)\r?\n`)[1]
	p.sees(`type its last 6 characters: $`)
	if left, _ := filepath.Glob(filepath.Join(e.root, "*")); len(left) > 0 {
		t.Errorf("made before it was confirmed: %v", left)
	}
	p.types("wrong")
	p.sees(`not how it ends(?s:.)*characters: $`)
	p.types(strings.ToLower(identity[len(identity)-6:]))
	if got := <-status; got != 0 {
		t.Fatalf("exit status %d:\n%s", got, p.text())
	}
	key, err := secret.Move([]byte(identity + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Wipe()
	ids, err := recovery.ParseIdentities(key)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.PathsUnder(e.root))
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Recovery; !got.Confirmed || len(got.Recipients) != 1 || got.Recipients[0] != ids[0].Recipient().String() {
		t.Errorf("the configuration has %+v, want the recipient of what was shown", got)
	}
	if n := strings.Count(p.text(), identity); n != 1 {
		t.Errorf("the identity was shown %d times", n)
	}
	err = filepath.WalkDir(e.root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte("AGE-SECRET-KEY")) {
			t.Errorf("%s holds the identity", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestInitNotConfirmed(t *testing.T) {
	for name, answers := range map[string][]string{"nothing": {""}, "three times wrong": {"abc", "def", "ghi"}, "end of input": {"\x04"}} {
		p, e := terminal(t)
		status := background(e, "init")
		for i, a := range answers {
			p.sees(fmt.Sprintf(`(?s)(characters: .*){%d}$`, i+1))
			p.types(a)
		}
		if got := <-status; got != exitRefused {
			t.Errorf("%s: exit status %d, want %d", name, got, exitRefused)
		}
		p.sees("nothing was set up")
		if left, _ := os.ReadDir(e.root); len(left) > 0 {
			t.Errorf("%s: made all the same: %v", name, left)
		}
	}
}

func TestConfirm(t *testing.T) {
	for answer, want := range map[string]bool{"y": true, "YES": true, "n": false, "": false, "yeah": false, "db": false} {
		p, e := terminal(t)
		done := make(chan error, 1)
		go func() { done <- e.confirm(t.Context(), false, "Remove db?", "retry") }()
		p.sees(`Remove db\? \[y/N\] $`)
		p.types(answer)
		err := <-done
		var refused *refusedError
		if (err == nil) != want || err != nil && !errors.As(err, &refused) {
			t.Errorf("%q: got %v", answer, err)
		}
	}
	p, e := terminal(t)
	e.json = true // a program reads along: nobody to ask
	if err := e.confirm(t.Context(), false, "Remove db?", "retry"); err == nil || p.text() != "" {
		t.Errorf("got %v, and asked %q", err, p.text())
	}
	if err := e.confirm(t.Context(), true, "Remove db?", "retry"); err != nil {
		t.Errorf("with force: %v", err)
	}
}
