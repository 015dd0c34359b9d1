// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
)

// undo takes back the steps of an operation that failed, last step first. It runs under a deadline of its own: the usual reason for a failure is
// that the caller's time is over, and that must not keep anything open (F13).
type undo struct{ steps []undoStep }

type undoStep struct {
	what string
	do   func(context.Context) error
}

// add notes how to take back what has just been done; what is said in an error.
func (u *undo) add(what string, do func(context.Context) error) {
	u.steps = append(u.steps, undoStep{what, do})
}

// onError is to be deferred: it runs the undo if the operation ends with an error, and adds what could not be undone.
func (u *undo) onError(ctx context.Context, err *error) {
	if *err == nil {
		return
	}
	if err2 := u.run(ctx); err2 != nil {
		*err = fmt.Errorf("%w; %w", *err, err2)
	}
}

// run takes everything back, also after a step that could not be. The error joins those of all steps.
func (u *undo) run(ctx context.Context) error {
	if len(u.steps) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	var errs []error
	for len(u.steps) > 0 {
		last := u.steps[len(u.steps)-1]
		u.steps = u.steps[:len(u.steps)-1]
		if err := last.do(ctx); err != nil {
			errs = append(errs, fmt.Errorf("and then, to %s: %w", last.what, err))
		}
	}
	return errors.Join(errs...)
}
