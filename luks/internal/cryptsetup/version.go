// SPDX-License-Identifier: Apache-2.0

package cryptsetup

// #include "shim.h"
import "C"

import (
	"errors"

	upstream "github.com/martinjungblut/go-cryptsetup"
)

// Version returns the version of the library that is loaded, for example "2.6.1". There is no function for it: the library mentions it in a debug message
// when it first uses its cryptography. If that has not happened yet, path is the empty scratch file on which it is made to.
func Version(scratch string) (string, error) {
	var v string
	err := Init(scratch, func(d *Device) error {
		if v = C.GoString(C.voluks_version()); v != "" {
			return nil
		}
		_ = d.up.Load(upstream.LUKS2{}) // fails, there is no header
		if v = C.GoString(C.voluks_version()); v == "" {
			return errors.New("libcryptsetup does not tell its version")
		}
		return nil
	})
	return v, err
}
