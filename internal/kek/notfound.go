// SPDX-License-Identifier: Apache-2.0

package kek

import "errors"

// ErrNotFound: the provider answers and does not have the key. It does not pass by itself.
var ErrNotFound = errors.New("key does not exist")
