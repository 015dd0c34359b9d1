// SPDX-License-Identifier: Apache-2.0

// Package scenario holds what must be true of a whole node: the agent under systemd, with the real Docker Engine, Compose
// and podman as its clients. Its tests run in the full guest (scripts/test-full), see voluks only from outside, and are
// skipped everywhere else.
package scenario
