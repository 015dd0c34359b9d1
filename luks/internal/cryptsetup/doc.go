// SPDX-License-Identifier: Apache-2.0

// Package cryptsetup is the only door to libcryptsetup, for package luks alone.
//
// What go-cryptsetup has and no key crosses goes through it: init, load, format, deactivate. It hands keys over as Go strings and leaves copies of them in
// freed C memory, and it lacks slots, tokens and flags; all that is done here on the very same handle. A key goes to C as a pointer to the caller's
// own (locked) memory.
//
// A handle lives for one call of [Init], [Load] or [ByName], on one thread, under one lock for the whole process: neither libcryptsetup nor libdevmapper
// is safe to use from several threads. A call that never returns (device-mapper on a suspended device does that, past SIGKILL) therefore blocks all
// later ones, which is one reason why voluks uses this package in processes that do one thing and exit.
package cryptsetup

/*
#cgo pkg-config: libcryptsetup
#cgo CFLAGS: -Wall
*/
import "C"
