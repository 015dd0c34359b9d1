// SPDX-License-Identifier: Apache-2.0

// Package keysocket answers systemd-cryptsetup, which takes an AF_UNIX socket as the key file of a line in crypttab: it connects, says by the name of its
// own end which volume it is for, and reads the key until the end.
//
// A key is given to root alone, for the volume that the peer names alone, and only if the line of that volume in crypttab names this socket. What is
// sent is the key of the volume's agent slot; the volume key never passes here.
package keysocket
