// SPDX-License-Identifier: Apache-2.0

// Package systemd is what the agent says to systemd and takes from it: listening sockets that were opened before the agent
// started, notifications about its state, and the watchdog. Outside systemd everything here is a quiet no-op, so that
// the same code serves a service, a container and a terminal.
package systemd
