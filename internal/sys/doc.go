// SPDX-License-Identifier: Apache-2.0

// Package sys is the only door from voluks to the kernel: locked memory, file locks, loop devices, device-mapper tables, mounts and /proc.
// No other package imports golang.org/x/sys (libcryptsetup, behind cgo, is the one other way down).
//
// Everything here is read-only towards device-mapper, and nothing here flushes or reads a device unless its name says so: a suspended device
// must never block a caller that only looks.
package sys
