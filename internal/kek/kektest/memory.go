// SPDX-License-Identifier: Apache-2.0

package kektest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"sync"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/secret"
)

// Memory is a keeper of keys in this process, with every state that a real one can be in. A Memory is
// one key; the providers that New makes of it are clients of it. It protects nothing: W stands in the
// wrap, masked with a hash.
type Memory struct {
	mu      sync.Mutex
	id      string
	version int
	state   error // what every call ends with, if not nil
	slow    bool
	calls   int
}

// NewMemory is a keeper with one key of the given ID, version 1.
func NewMemory(id string) *Memory { return &Memory{id: id, version: 1} }

// New makes a provider that asks this keeper.
func (m *Memory) New() kek.Provider { return &memoryClient{m} }

// Set is New as the one provider of a node.
func (m *Memory) Set() *kek.Set { return &kek.Set{Active: m.New()} }

// Fail lets every call end with err from now on, such as kek.ErrUnavailable; nil ends that.
func (m *Memory) Fail(err error) { m.lock(func() { m.state = err }) }

// Hang lets every call wait for its context from now on, or no longer.
func (m *Memory) Hang(on bool) { m.lock(func() { m.slow = on }) }

// Advance gives the key a new version. Older ones still unwrap.
func (m *Memory) Advance() { m.lock(func() { m.version++ }) }

// Calls is how many calls came that had to ask for a key.
func (m *Memory) Calls() (n int) { m.lock(func() { n = m.calls }); return n }

func (m *Memory) lock(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// ask is what every call goes through.
func (m *Memory) ask(ctx context.Context) error {
	var state error
	var slow bool
	m.lock(func() { m.calls++; state, slow = m.state, m.slow })
	if slow {
		<-ctx.Done()
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return state
}

const memoryName = "memory"

type memoryClient struct{ m *Memory }

func (p *memoryClient) Ref() (ref kek.Ref) {
	p.m.lock(func() { ref = kek.Ref{Provider: memoryName, ID: p.m.id, Version: fmt.Sprint(p.m.version)} })
	return ref
}

func (p *memoryClient) Generate(ctx context.Context, b kek.Binding) (*secret.Key, []byte, kek.Ref, error) {
	if err := b.Validate(); err != nil {
		return nil, nil, kek.Ref{}, err
	}
	if err := p.m.ask(ctx); err != nil {
		return nil, nil, kek.Ref{}, err
	}
	w, err := secret.Random(kek.KeySize)
	if err != nil {
		return nil, nil, kek.Ref{}, err
	}
	ref := p.Ref()
	return w, seal(w, b, ref), ref, nil
}

func (p *memoryClient) Unwrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) (*secret.Key, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	if !ref.SameKey(p.Ref()) {
		return nil, &kek.NotMineError{Want: ref, Have: p.Ref()}
	}
	if err := p.m.ask(ctx); err != nil {
		return nil, err
	}
	if len(wrap) != kek.KeySize+sha256.Size {
		return nil, kek.ErrWrongKey
	}
	masked := bytes.Clone(wrap[:kek.KeySize])
	mask := sha256.Sum256(append(b.Bytes(), ref.String()...))
	for i := range masked {
		masked[i] ^= mask[i]
	}
	w, err := secret.Move(masked)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(seal(w, b, ref), wrap) {
		w.Wipe()
		return nil, kek.ErrWrongKey
	}
	return w, nil
}

func (p *memoryClient) Rewrap(ctx context.Context, b kek.Binding, ref kek.Ref, wrap []byte) ([]byte, kek.Ref, error) {
	w, err := p.Unwrap(ctx, b, ref, wrap)
	if err != nil {
		return nil, kek.Ref{}, err
	}
	defer w.Wipe()
	now := p.Ref()
	return seal(w, b, now), now, nil
}

// seal masks W and adds a checksum over all that the wrap is bound to.
func seal(w *secret.Key, b kek.Binding, ref kek.Ref) []byte {
	mask := sha256.Sum256(append(b.Bytes(), ref.String()...))
	out := make([]byte, 0, kek.KeySize+sha256.Size)
	for i, c := range w.Bytes() {
		out = append(out, c^mask[i])
	}
	sum := sha256.Sum256(append(append(b.Bytes(), ref.String()...), w.Bytes()...))
	return append(out, sum[:]...)
}
