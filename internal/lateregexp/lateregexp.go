// SPDX-License-Identifier: Apache-2.0

// Package lateregexp is for regular expressions of packages. Each volume is opened by a process of its own, which needs hardly any of them: compiling all at
// its start would be a good part of its time and memory.
package lateregexp

import (
	"regexp"
	"sync"
)

// New compiles the expression when it is first asked for. A wrong one panics then.
func New(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}
