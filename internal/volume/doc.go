// SPDX-License-Identifier: Apache-2.0

// Package volume is one encrypted volume's life: create, mount, unmount, remove, and the repair of whatever a crash left in between.
//
// A volume is a LUKS2 container in a backing, with one file system in it, and a record beside it. The kernel is the truth, the header is the
// manifest, the record is a cache of both; no path is ever given out that is not proven, at that moment, to lie on the volume's own dm-crypt
// mapping. Manager does the work in the process that calls it: a command of the CLI, or a worker that the agent started for this one call
// (package worker). The agent itself calls only List, Inspect, Path and Unsettled, which read tables of the kernel and touch no device.
//
// What lies below is reached through Storage, five small interfaces with one real implementation (NewStorage) and one stateful fake
// (volumetest.Fake); both pass the conformance suite of volumetest.
package volume
