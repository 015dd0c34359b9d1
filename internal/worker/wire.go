// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"errors"
	"time"

	"github.com/voluks/voluks/internal/kek"
	"github.com/voluks/voluks/internal/volume"
)

// Operations that run in workers.
const (
	opCreate  = "create"
	opMount   = "mount"
	opUnmount = "unmount"
	opRemove  = "remove"
	opSettle  = "settle"
	opKey     = "unlock"
	opRotate  = volume.ActionRotate
	opRewrap  = volume.ActionRewrap
	opRevoke  = volume.ActionRevoke
	opErase   = volume.ActionErase
	opRekey   = volume.ActionRekey
	opVerify  = volume.ActionVerify
)

// request is what an agent writes to a worker, one JSON object. Both ends are always the same program, so it has no version.
type request struct {
	Op       string          `json:"op"`
	Name     string          `json:"name"` // of erase: the UUID
	Spec     *volume.Spec    `json:"spec,omitempty"`
	Holder   *volume.Holder  `json:"holder,omitempty"`
	HolderID string          `json:"holder_id,omitempty"`
	Roles    []string        `json:"roles,omitempty"`    // of rotate
	KeyID    string          `json:"key_id,omitempty"`   // of revoke
	Identity bool            `json:"identity,omitempty"` // a recovery identity comes with it, on a descriptor of its own
	Removed  *volume.Removed `json:"removed,omitempty"`  // of erase
	// Adopted is that a change of keys is for such a device, and not for a volume.
	Adopted  *volume.AdoptedRequest `json:"adopted,omitempty"`
	Deadline time.Time              `json:"deadline"`
}

// answer is what the worker writes back.
type answer struct {
	Info  *volume.Info `json:"info,omitempty"`
	Made  bool         `json:"made,omitempty"`
	Path  string       `json:"path,omitempty"`
	Error *wireError   `json:"error,omitempty"`

	Receipt *volume.KeyReceipt   `json:"receipt,omitempty"`
	Erased  *volume.EraseReceipt `json:"erased,omitempty"`
}

// wireError carries an error of the Manager with everything that a caller can act on: its code, and the details of those kinds that have some.
type wireError struct {
	Code   volume.Code        `json:"code"`
	Op     string             `json:"op"`
	Volume string             `json:"volume"`
	Text   string             `json:"text"` // of the cause
	Held   *volume.HeldError  `json:"held,omitempty"`
	Diff   *volume.DiffError  `json:"diff,omitempty"`
	Proof  *volume.ProofError `json:"proof,omitempty"`
	// MayPass is that the cause is kek.ErrUnavailable: waiting may help.
	MayPass bool `json:"may_pass,omitempty"`
}

func encodeError(err error) *wireError {
	if err == nil {
		return nil
	}
	w := &wireError{Code: volume.CodeOf(err), Text: err.Error(), MayPass: kek.MayPass(err)}
	var e *volume.Error
	if errors.As(err, &e) {
		w.Op, w.Volume, w.Text = e.Op, e.Volume, e.Err.Error()
	}
	errors.As(err, &w.Held)
	errors.As(err, &w.Diff)
	errors.As(err, &w.Proof)
	return w
}

func (w *wireError) decode() error {
	if w == nil {
		return nil
	}
	cause := &remoteError{text: w.Text}
	switch {
	case w.Held != nil:
		cause.typed = w.Held
	case w.Diff != nil:
		cause.typed = w.Diff
	case w.Proof != nil:
		cause.typed = w.Proof
	case w.MayPass:
		cause.typed = kek.ErrUnavailable
	}
	return &volume.Error{Code: w.Code, Op: w.Op, Volume: w.Volume, Err: cause}
}

// remoteError is a cause that happened in a worker.
type remoteError struct {
	text  string
	typed error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.typed }
