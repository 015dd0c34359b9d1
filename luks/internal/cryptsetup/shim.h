// SPDX-License-Identifier: Apache-2.0

#ifndef VOLUKS_SHIM_H
#define VOLUKS_SHIM_H

#include <libcryptsetup.h>
#include <stddef.h>

// Installs the log function for all handles. Once per process.
void voluks_log_install(void);
// What libcryptsetup said on this thread since the last clear: error lines, joined. Never NULL.
const char *voluks_log_errors(void);
void voluks_log_clear(void);
// The version that the library gave in its debug messages, or an empty string.
const char *voluks_version(void);

// Overwrites what calls made on this thread left on its stack below the caller.
void voluks_scrub_stack(void);
// Empties the keyring of this thread. Returns 0 or a negative errno.
int voluks_clear_thread_keyring(void);

#endif
