// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"runtime"
	"sync"
	"time"
)

const (
	// atMost is how many workers there may be with the slow ones. Each takes about 5 MB.
	atMost = 32
	// slowAfter is when a worker is slow: most are done in a fraction of it.
	slowAfter = 15 * time.Second
)

// atOnce is how many workers run at a time. With many more of them than processors none ends sooner.
var atOnce = max(4, runtime.GOMAXPROCS(0))

// places bounds the workers, so that all volumes of a node may be asked for at once on a machine with little memory. One that is slow, because a key
// provider or a disk is, makes room for the next, so that it holds up nobody. F42
type places struct {
	quick, all chan struct{}
	slow       time.Duration
}

func newPlaces(quick, all int, slow time.Duration) *places {
	return &places{quick: make(chan struct{}, quick), all: make(chan struct{}, all), slow: slow}
}

// take waits for a place. The caller gives it back with release when the worker is gone, once or more often.
func (p *places) take(ctx context.Context) (release func(), err error) {
	select {
	case p.all <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case p.quick <- struct{}{}:
	case <-ctx.Done():
		<-p.all
		return nil, ctx.Err()
	}
	makeRoom := sync.OnceFunc(func() { <-p.quick })
	timer := time.AfterFunc(p.slow, makeRoom)
	return sync.OnceFunc(func() {
		timer.Stop()
		makeRoom()
		<-p.all
	}), nil
}
