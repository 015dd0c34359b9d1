// SPDX-License-Identifier: Apache-2.0

package kek

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrNotMine: the wrap was made by another provider or key. Try the next one.
	ErrNotMine = errors.New("wrapped by another key")
	// ErrWrongKey: the named key does not open the wrap for this volume and role; it was damaged,
	// tampered with, or belongs to another volume.
	ErrWrongKey = errors.New("wrapped key does not open")
	// ErrUnavailable: the provider cannot be asked now. It may pass.
	ErrUnavailable = errors.New("key provider is not available")
	// ErrDenied: the provider refuses this node. It does not pass by itself.
	ErrDenied = errors.New("key provider denies access")
	// ErrDisabled: the key exists and must not be used. It does not pass by itself.
	ErrDisabled = errors.New("key is disabled")
)

// ConfigError is a provider that cannot be used the way it is configured.
type ConfigError struct {
	Setting string // dotted name of the setting, such as "kek.file.path"
	Err     error  // what is wrong with it
}

// Error implements error.
func (e *ConfigError) Error() string { return fmt.Sprintf("%s: %v", e.Setting, e.Err) }

// Unwrap returns the cause.
func (e *ConfigError) Unwrap() error { return e.Err }

// NotMineError is ErrNotMine with the two keys.
type NotMineError struct {
	Want Ref   // the key that the token names
	Have Ref   // the key that is here
	Err  error // why the key that is here is not known, or nil
}

// Error implements error.
func (e *NotMineError) Error() string {
	s := fmt.Sprintf("wrapped by %v, not by %v", e.Want, e.Have)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Is makes it an ErrNotMine.
func (e *NotMineError) Is(target error) bool { return target == ErrNotMine }

// Unwrap returns the cause, if there is one.
func (e *NotMineError) Unwrap() error { return e.Err }

// NoProviderError means that none of the configured providers has the key that a token names.
type NoProviderError struct {
	Want Ref     // the key that the token names
	Have []Ref   // the configured keys, the active one first
	Errs []error // why some of them are not known
}

// Error implements error.
func (e *NoProviderError) Error() string {
	have := make([]string, len(e.Have))
	for i, ref := range e.Have {
		have[i] = ref.String()
	}
	s := fmt.Sprintf("wrapped by %v, which is not configured (configured: %s)", e.Want, strings.Join(have, ", "))
	for _, err := range e.Errs {
		s += "; " + err.Error()
	}
	return s
}

// Is makes it an ErrNotMine.
func (e *NoProviderError) Is(target error) bool { return target == ErrNotMine }

// Unwrap returns why some of the configured keys are not known.
func (e *NoProviderError) Unwrap() []error { return e.Errs }
