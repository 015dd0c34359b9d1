// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"io"
	"sync"

	"github.com/voluks/voluks/internal/secret"
)

// Loan lends a key to net/http, which may go on reading a request's body after the request has failed. By then the key may be wiped, and to touch
// its memory would end the process.
type Loan struct {
	mu  sync.Mutex
	key *secret.Key // nil when the loan has ended
}

// Lend borrows the key until End.
func Lend(key *secret.Key) *Loan { return &Loan{key: key} }

// End gives the key back. It waits for a read that is under way.
func (l *Loan) End() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.key = nil
}

// Body reads the key once. Each attempt at a request, after a redirection, has one of its own.
func (l *Loan) Body() io.ReadCloser { return io.NopCloser(&loanReader{loan: l}) }

type loanReader struct {
	loan *Loan
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
