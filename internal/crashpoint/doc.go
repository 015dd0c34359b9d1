// SPDX-License-Identifier: Apache-2.0

// Package crashpoint gives names to the instants between the writes of an operation, so that a test can kill a real process exactly there.
// A build with the tag voluks_crashpoints obeys VOLUKS_CRASH_AT; any other build contains nothing of it.
package crashpoint
