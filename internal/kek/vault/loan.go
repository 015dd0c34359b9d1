// SPDX-License-Identifier: Apache-2.0

package vault

import (
	"io"
	"sync"

	"github.com/voluks/voluks/internal/secret"
)

// loan lends a key to net/http, which may go on reading a request's body after the request has failed. By then the key may be wiped, and to touch
// its memory would end the process.
type loan struct {
	mu  sync.Mutex
	key *secret.Key // nil when the loan has ended
}

// end takes the key back. It waits for a read that is under way.
func (l *loan) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.key = nil
}

// loanReader reads the key once. Each attempt at the request, after a redirection, has one of its own.
type loanReader struct {
	loan *loan
	read int
}

func (r *loanReader) Read(p []byte) (int, error) {
	r.loan.mu.Lock()
	defer r.loan.mu.Unlock()
	if r.loan.key == nil {
		return 0, io.ErrClosedPipe
	}
	if r.read == r.loan.key.Len() {
		return 0, io.EOF
	}
	n := copy(p, r.loan.key.Bytes()[r.read:])
	r.read += n
	return n, nil
}

func (r *loanReader) Close() error { return nil }
