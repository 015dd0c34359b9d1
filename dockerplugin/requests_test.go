// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/voluks/voluks/internal/volume"
)

// Whatever is sent, the answer is {"Err": …} and nothing reaches the volumes.
func TestBadRequests(t *testing.T) {
	p := start(t, nil)
	for _, test := range []struct{ call, body, want string }{
		{"VolumeDriver.Create", "", "EOF"},
		{"VolumeDriver.Create", "{", "unexpected EOF"},
		{"VolumeDriver.Mount", "not json", "invalid character"},
		{"VolumeDriver.Mount", `{"Name":7}`, "cannot unmarshal number"},
		{"VolumeDriver.Mount", `["db"]`, "cannot unmarshal array"},
		{"VolumeDriver.Shrink", "{}", "no such call"},
		{"", "", "no such call"},
		{"%2e%2e/etc/passwd", "", "no such call"},
	} {
		if got := p.fails(test.call, test.body); !strings.Contains(got, test.want) {
			t.Errorf("%s %q: got %q, want %q in it", test.call, test.body, got, test.want)
		}
	}
	if calls := p.fake.log(); len(calls) > 0 {
		t.Errorf("reached the volumes: %v", calls)
	}
	p.ok("VolumeDriver.List", "{}")
}

// A request of 64 MiB is refused without being kept, whether its length is announced or not, also for a client that sends
// everything before it reads a byte.
func TestHugeRequest(t *testing.T) {
	p := start(t, nil)
	const size = 64 << 20
	for _, test := range []struct{ name, head string }{
		{"announced", fmt.Sprintf("Content-Length: %d\r\n\r\n", size)},
		{"chunked", "Transfer-Encoding: chunked\r\n\r\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn, err := net.Dial("unix", p.socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			out := bufio.NewWriterSize(conn, 1<<20)
			fmt.Fprintf(out, "POST /VolumeDriver.Create HTTP/1.1\r\nHost: docker\r\n%s", test.head)
			block := []byte(strings.Repeat(" ", 1<<20))
			for range size >> 20 {
				if test.name == "chunked" {
					fmt.Fprintf(out, "%x\r\n%s\r\n", len(block), block)
				} else {
					out.Write(block)
				}
			}
			if test.name == "chunked" {
				fmt.Fprint(out, "0\r\n\r\n")
			}
			if err := out.Flush(); err != nil {
				t.Fatalf("the client could not send its request: %v", err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			if got := errText(t, string(body)); resp.StatusCode != http.StatusRequestEntityTooLarge || !strings.Contains(got, "larger than") {
				t.Errorf("got %d, %q", resp.StatusCode, got)
			}
		})
	}
	p.ok("VolumeDriver.List", "{}")
}

// A client that connects and sends half a request is let go of, and its connection closed.
func TestSlowRequest(t *testing.T) {
	p := start(t, func(c *Config) { c.Limits = DefaultLimits; c.Limits.ReadBody = 20 * time.Millisecond })
	conn, err := net.Dial("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /VolumeDriver.Create HTTP/1.1\r\nHost: docker\r\nContent-Length: 100\r\n\r\n{")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	if got := errText(t, string(body)); !strings.Contains(got, "read the request") {
		t.Errorf("got %q", got)
	}
}

// The deadline for reading a request does not end the call that follows.
func TestCallOutlivesReadDeadline(t *testing.T) {
	p := start(t, func(c *Config) { c.Limits = DefaultLimits; c.Limits.ReadBody = 30 * time.Millisecond })
	p.fake.before = func(ctx context.Context, _ string) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(120 * time.Millisecond):
			return nil
		}
	}
	p.ok("VolumeDriver.Create", `{"Name":"db"}`)
	p.ok("VolumeDriver.List", "") // without a body net/http reads ahead from the start
}

func TestPanicIsAnError(t *testing.T) {
	p := start(t, nil)
	p.fake.before = func(_ context.Context, call string) error { panic("boom in " + call) }
	for _, call := range []string{"Create", "Remove", "Mount", "Unmount", "Path", "Get", "List"} {
		if got := p.fails("VolumeDriver."+call, `{"Name":"db","ID":"one"}`); !strings.Contains(got, "internal error") || strings.Contains(got, "boom") {
			t.Errorf("%s: got %q", call, got)
		}
	}
	if log := p.logs.String(); strings.Count(log, "boom") < 7 || !strings.Contains(log, "fake_test.go") {
		t.Errorf("the log does not show panics and stacks: %.500s", log)
	}
	p.fake.before = nil
	p.ok("VolumeDriver.List", "{}")
}

// At the first deadline the work is undone by those who did it, and the client reads why, well before Docker gives up.
func TestDeadlineUndoes(t *testing.T) {
	if l := DefaultLimits; l.LongAnswer >= 110*time.Second || l.ShortAnswer >= 60*time.Second || l.LongWork >= l.LongAnswer || l.ShortWork >= l.ShortAnswer {
		t.Fatalf("limits %+v do not stay below Docker's 120 s and 60 s", l)
	}
	p := start(t, func(c *Config) { c.Limits = DefaultLimits; c.Limits.LongWork = 30 * time.Millisecond })
	var undone atomic.Bool
	p.fake.before = func(ctx context.Context, call string) error {
		<-ctx.Done()
		undone.Store(true)
		return failed(volume.CodeTimeout, call, "db", "the key provider did not answer in time; everything was undone")
	}
	if got := p.fails("VolumeDriver.Mount", `{"Name":"db","ID":"one"}`); !strings.Contains(got, "did not answer in time") {
		t.Errorf("got %q", got)
	}
	if !undone.Load() {
		t.Error("answered before the undo ended")
	}
}

// A layer that is stuck past its deadline does not keep the client: it is told, and a mount that succeeds after all is taken back, since Docker
// never sends its Unmount.
func TestStuckCallIsAbandonedAndUndone(t *testing.T) {
	p := start(t, func(c *Config) {
		c.Limits = DefaultLimits
		c.Limits.LongWork, c.Limits.LongAnswer = 10*time.Millisecond, 40*time.Millisecond
	})
	p.ok("VolumeDriver.Create", `{"Name":"db"}`)
	release := make(chan struct{})
	p.fake.before = func(_ context.Context, call string) error {
		if call == "mount" {
			<-release // deaf to its context
		}
		if call == "unmount" {
			time.Sleep(50 * time.Millisecond) // an undo takes a while
		}
		return nil
	}
	got := p.fails("VolumeDriver.Mount", `{"Name":"db","ID":"one"}`)
	if !strings.Contains(got, "no answer after 40ms") || !strings.Contains(got, "operation ") {
		t.Errorf("got %q", got)
	}
	p.ok("VolumeDriver.Get", `{"Name":"db"}`) // others go on
	close(release)
	if err := p.server.Shutdown(t.Context()); err != nil { // waits for what is late
		t.Fatal(err)
	}
	if h := p.fake.volumes["db"].Holders; len(h) > 0 || !slices.Contains(p.fake.log(), "unmount db one") {
		t.Errorf("holders %v, calls %v: the late mount was not taken back", h, p.fake.log())
	}
}

// hangUp sends a request and closes the connection once the call has begun.
func hangUp(t *testing.T, p *plugin, call, body string) (ctxEnded bool) {
	t.Helper()
	begun := make(chan struct{})
	ended := make(chan bool, 1)
	p.fake.before = func(ctx context.Context, c string) error {
		if !strings.HasSuffix(strings.ToLower(call), c) {
			return nil
		}
		close(begun)
		select {
		case <-ctx.Done():
			ended <- true
		case <-time.After(100 * time.Millisecond):
			ended <- false
		}
		return nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if _, _, err := p.send(ctx, call, body); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want the client's own cancellation", err)
	}
	return <-ended
}

// A client that hangs up (Docker killed, Ctrl-C in podman) will never unmount what it never heard of.
func TestClientHangsUp(t *testing.T) {
	p := start(t, nil)
	p.ok("VolumeDriver.Create", `{"Name":"db"}`)
	if !hangUp(t, p, "VolumeDriver.Mount", `{"Name":"db","ID":"one"}`) {
		t.Error("the context of the mount did not end")
	}
	if err := p.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if h := p.fake.volumes["db"].Holders; len(h) > 0 {
		t.Errorf("holders %v: the mount that nobody heard of was not taken back", h)
	}
}

// Unmount and Remove are wanted whether or not anyone waits for the answer.
func TestUnmountEndsWithoutItsClient(t *testing.T) {
	for _, call := range []string{"VolumeDriver.Unmount", "VolumeDriver.Remove"} {
		p := start(t, nil)
		p.ok("VolumeDriver.Create", `{"Name":"db"}`)
		if hangUp(t, p, call, `{"Name":"db","ID":"one"}`) {
			t.Errorf("%s was cut short when its client hung up", call)
		}
		p.server.Shutdown(t.Context())
	}
}

// Docker does not retry after an error at its start; a request waits until the agent has looked through its volumes.
func TestRequestsWaitForTheStart(t *testing.T) {
	ready := make(chan struct{})
	p := start(t, func(c *Config) { c.Ready = ready })
	p.ok("Plugin.Activate", "")
	p.ok("VolumeDriver.Capabilities", "{}")
	answers := make(chan error, 1)
	go func() {
		status, answer, err := p.send(t.Context(), "VolumeDriver.Create", `{"Name":"db"}`)
		if status != http.StatusOK {
			err = fmt.Errorf("%d %s %w", status, answer, err)
		}
		answers <- err
	}()
	select {
	case err := <-answers:
		t.Fatalf("answered before the agent was ready: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if calls := p.fake.log(); len(calls) > 0 {
		t.Fatalf("%v reached the volumes before the agent was ready", calls)
	}
	close(ready)
	if err := <-answers; err != nil {
		t.Error(err)
	}
}

func TestWaitingForTheStartEnds(t *testing.T) {
	p := start(t, func(c *Config) {
		c.Ready = make(chan struct{})
		c.Limits = DefaultLimits
		c.Limits.ShortWork, c.Limits.LongWork = 20*time.Millisecond, 20*time.Millisecond
	})
	for _, call := range []string{"Get", "Mount"} {
		if got := p.fails("VolumeDriver."+call, `{"Name":"db","ID":"one"}`); !strings.Contains(got, "still looking through its volumes") {
			t.Errorf("%s: got %q", call, got)
		}
	}
}

// Stopping the agent: no new requests, but those that are on their way are answered.
func TestShutdownAnswersWhatIsInFlight(t *testing.T) {
	p := start(t, nil)
	begun, release := make(chan struct{}), make(chan struct{})
	p.fake.before = func(context.Context, string) error { close(begun); <-release; return nil }
	answers := make(chan string, 1)
	go func() {
		status, answer, err := p.send(t.Context(), "VolumeDriver.Create", `{"Name":"db"}`)
		answers <- fmt.Sprintf("%d %s %v", status, answer, err)
	}()
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- p.server.Shutdown(t.Context()) }()
	if err := <-p.served; err != nil { // Serve ends when the listener is closed
		t.Errorf("Serve ends with %v", err)
	}
	if _, err := net.Dial("unix", p.socket); err == nil {
		t.Error("the socket still accepts")
	}
	select {
	case err := <-stopped:
		t.Errorf("Shutdown returned (%v) with a request in flight", err)
	default:
	}
	close(release)
	if got := <-answers; got != "200 {} <nil>" {
		t.Errorf("the request in flight got %s", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestShutdownCutsShort(t *testing.T) {
	p := start(t, nil)
	begun := make(chan struct{})
	var undone atomic.Bool
	p.fake.before = func(ctx context.Context, _ string) error {
		close(begun)
		<-ctx.Done()
		undone.Store(true)
		return ctx.Err()
	}
	go p.send(t.Context(), "VolumeDriver.Create", `{"Name":"db"}`)
	<-begun
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := p.server.Shutdown(ctx); err == nil {
		t.Error("Shutdown says that all was well")
	}
	if !undone.Load() {
		t.Error("Shutdown returned before the call had undone")
	}
}

func TestPing(t *testing.T) {
	p := start(t, func(c *Config) { c.Ready = make(chan struct{}) }) // also while it looks through its volumes
	if err := Ping(t.Context(), p.socket); err != nil {
		t.Error(err)
	}
	p.server.Shutdown(t.Context())
	<-p.served
	if err := Ping(t.Context(), p.socket); err == nil {
		t.Error("a plugin that is gone answers")
	}
}
