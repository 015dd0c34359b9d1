// SPDX-License-Identifier: Apache-2.0

// Package tang asks tang servers what Clevis does not tell: which of them are away, and which no longer have a key.
package tang

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/kek/clevis/policy"
)

// timeout is how long one server may take to show that it is there, when clevis has failed already.
const timeout = 5 * time.Second

var client = &http.Client{
	Transport:     &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// ask makes one request of a tang server, for its status alone.
func ask(ctx context.Context, method, url, body string) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 64<<10)
	return res.StatusCode, nil
}

// Down is kek.ErrUnavailable with those of the servers that do not answer, or do not answer as a tang server does; nil if there are none.
func Down(ctx context.Context, servers []string) error {
	var errs []error
	for _, server := range servers {
		status, err := ask(ctx, http.MethodGet, server+"/adv", "")
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("the tang server %s does not answer: %w", server, err))
		case status >= 500 || status == http.StatusTooManyRequests:
			errs = append(errs, fmt.Errorf("the tang server %s answers with status %d", server, status))
		}
	}
	return all(kek.ErrUnavailable, errs)
}

// Gone is kek.ErrNotFound with the keys of a wrap that the servers no longer have; nil if there are none.
func Gone(ctx context.Context, shares []policy.Share) error {
	var errs []error
	for _, share := range shares {
		// A request of the right form and without a point: a server that has the key says that it is a bad one.
		status, err := ask(ctx, http.MethodPost, share.URL+"/rec/"+url.PathEscape(share.Key), `{"kty":"EC","alg":"ECMR"}`)
		if err == nil && status == http.StatusNotFound {
			errs = append(errs, fmt.Errorf("the tang server %s no longer has the key %s", share.URL, share.Key))
		}
	}
	return all(kek.ErrNotFound, errs)
}

func all(kind error, errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %w", kind, errors.Join(errs...))
}
