// SPDX-License-Identifier: Apache-2.0

package cryptsetup

/*
#include "shim.h"
#include <stdlib.h>
*/
import "C"

import (
	"fmt"
	"syscall"
	"unsafe"

	"github.com/voluks/voluks/luks/header"
)

// SetToken writes a token, replacing the one of that number. A negative number stands for the first free one. It returns the number.
func (d *Device) SetToken(id int, json []byte) (int, error) {
	if id >= header.MaxTokens {
		return 0, fmt.Errorf("token %d: %w", id, syscall.ERANGE)
	}
	text := C.CString(string(json))
	defer C.free(unsafe.Pointer(text))
	r := int(C.crypt_token_json_set(d.cd, C.int(max(id, C.CRYPT_ANY_TOKEN)), text))
	return r, result("crypt_token_json_set", r)
}

// RemoveToken removes a token.
func (d *Device) RemoveToken(id int) error {
	if id < 0 || id >= header.MaxTokens {
		return fmt.Errorf("token %d: %w", id, syscall.ERANGE)
	}
	return result("crypt_token_json_set", int(C.crypt_token_json_set(d.cd, C.int(id), nil)))
}
