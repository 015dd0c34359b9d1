// SPDX-License-Identifier: Apache-2.0

// Package luks makes, changes, opens and closes LUKS2 containers: the bytes on the device and the mapping in the kernel. It knows slots and keys, but not
// what a slot is for (package keyslot) or what lies in the container.
//
// # Reading before libcryptsetup does
//
// LUKS2 metadata is not authenticated and libcryptsetup repairs it silently: even loading a header rewrites a damaged copy from the good one. So every
// method first reads both copies itself (package header), past the page cache, without writing. What it finds damaged goes to the function given
// to [Container.OnDamage] before anything is repaired; a header without a good copy is an error and stays as it is. Methods that take a key also refuse a
// header that voluks could not have written, before the key is used.
//
// # Processes
//
// libcryptsetup is not thread-safe, so one lock serialises all calls of a process. A call on a device whose lower device is suspended never returns, not
// even on SIGKILL, and holds that lock; volume keys pass through memory of libraries that nobody can wipe with certainty; and what the pure Go
// implementation of [Container.Witness] leaves on the heap stays there until it is reused. Therefore all of this package, apart from [CheckTable],
// [MappingName] and [Container.Header], belongs into a process that does one operation and exits. The keyring of the thread, into which libcryptsetup puts the volume
// key for the kernel, is emptied before [Container.Open] returns; the kernel keeps its own copy in the mapping.
//
// # What the kernel was told
//
// The device may change between the check of the header and its use. [Container.Open] therefore compares the table that the kernel ended up with, and
// removes the mapping if it is another than asked for.
package luks
