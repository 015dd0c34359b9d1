// SPDX-License-Identifier: Apache-2.0

package dockerplugin

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	helpers "github.com/docker/go-plugins-helpers/volume"
)

// pluginType is the media type of the protocol's answers.
const pluginType = "application/vnd.docker.plugins.v1.1+json"

// reply is what the library answered.
type reply struct {
	status int
	kind   string // Content-Type
	body   []byte
}

// roundTrip gives one request to a handler of the library that was made for it, so that the driver knows the operation it runs in, and
// returns its answer. The handler offers nothing but Serve, hence a listener with one connection in memory.
func roundTrip(d helpers.Driver, path string, body []byte) (reply, error) {
	req, err := http.NewRequest(http.MethodPost, "http://plugin"+path, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Close = true
	conn := &memConn{closed: make(chan struct{})}
	if err := req.Write(&conn.request); err != nil {
		return reply{}, err
	}
	// Serve returns as soon as the listener has no second connection; the first one goes on.
	helpers.NewHandler(d).Serve(&oneConn{conn: conn})
	<-conn.closed
	resp, err := http.ReadResponse(bufio.NewReader(conn.answer()), req)
	if err != nil {
		return reply{}, fmt.Errorf("the handler did not answer: %w", err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return reply{status: resp.StatusCode, kind: resp.Header.Get("Content-Type"), body: answer}, err
}

// oneConn is a listener that accepts once.
type oneConn struct{ conn net.Conn }

func (l *oneConn) Accept() (net.Conn, error) {
	if l.conn == nil {
		return nil, io.EOF
	}
	conn := l.conn
	l.conn = nil
	return conn, nil
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return memAddr{} }

// memConn is a connection whose request is already there and whose answer is kept. The server's side reads and writes;
// nobody waits on the other side, so nothing can block or fill up.
type memConn struct {
	mu       sync.Mutex
	request  bytes.Buffer
	response bytes.Buffer
	once     sync.Once
	closed   chan struct{}
}

func (c *memConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.request.Read(p) // io.EOF after the request
}

func (c *memConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.response.Write(p)
}

func (c *memConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *memConn) answer() io.Reader {
	c.mu.Lock()
	defer c.mu.Unlock()
	return bytes.NewReader(c.response.Bytes())
}

func (c *memConn) LocalAddr() net.Addr              { return memAddr{} }
func (c *memConn) RemoteAddr() net.Addr             { return memAddr{} }
func (c *memConn) SetDeadline(time.Time) error      { return nil }
func (c *memConn) SetReadDeadline(time.Time) error  { return nil }
func (c *memConn) SetWriteDeadline(time.Time) error { return nil }

type memAddr struct{}

func (memAddr) Network() string { return "memory" }
func (memAddr) String() string  { return "plugin" }
