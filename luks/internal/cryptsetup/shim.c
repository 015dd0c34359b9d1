// SPDX-License-Identifier: Apache-2.0

#define _DEFAULT_SOURCE
#include "shim.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// A call into the library runs on one thread from beginning to end, so a buffer per thread belongs to one call: no message gets into another's error.
static __thread char errors[512];
static __thread size_t used;

static char version[32];

static void remember_error(const char *msg)
{
	size_t n = strlen(msg);

	while (n > 0 && (msg[n - 1] == '\n' || msg[n - 1] == '.'))
		n--;
	if (n == 0)
		return;
	int wrote = snprintf(errors + used, sizeof(errors) - used, "%s%.*s", used ? "; " : "", (int)n, msg);
	if (wrote > 0)
		used += (size_t)wrote < sizeof(errors) - used ? (size_t)wrote : sizeof(errors) - used - 1;
}

static void remember_version(const char *msg)
{
	static const char mark[] = "library version ";
	const char *at = strstr(msg, mark);
	size_t n;

	if (version[0] || !at)
		return;
	at += sizeof(mark) - 1;
	n = strspn(at, "0123456789.-abcdefghijklmnopqrstuvwxyz");
	while (n > 0 && at[n - 1] == '.')
		n--;
	if (n < sizeof(version))
		memcpy(version, at, n);
}

static void voluks_log(int level, const char *msg, void *usrptr)
{
	(void)usrptr;
	if (level == CRYPT_LOG_ERROR)
		remember_error(msg);
	else if (level == CRYPT_LOG_DEBUG)
		remember_version(msg);
}

void voluks_log_install(void)
{
	crypt_set_log_callback(NULL, voluks_log, NULL);
}

const char *voluks_log_errors(void)
{
	return errors;
}

void voluks_log_clear(void)
{
	errors[0] = '\0';
	used = 0;
}

const char *voluks_version(void)
{
	return version;
}

__attribute__((noinline)) void voluks_scrub_stack(void)
{
	char below[64 * 1024];

	explicit_bzero(below, sizeof(below));
}

int voluks_clear_thread_keyring(void)
{
	enum { clear = 7, thread_keyring = -1 }; // KEYCTL_CLEAR, KEY_SPEC_THREAD_KEYRING of linux/keyctl.h

	return syscall(SYS_keyctl, clear, thread_keyring) < 0 ? -errno : 0;
}
