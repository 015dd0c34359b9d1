// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// label is an attribute that a security module gives by itself.
const label = "security.selinux"

// Xattrs are all extended attributes, access lists included, without the label of a security module. A file system without them has none.
func (e *Entry) Xattrs() (map[string]string, error) {
	list, err := grow(func(b []byte) (int, error) {
		if e.file != nil {
			return unix.Flistxattr(e.fd, b)
		}
		return unix.Listxattr(e.self(), b)
	})
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, e.failed("listxattr", "", err)
	}
	if len(list) == 0 {
		return nil, nil
	}
	all := map[string]string{}
	for name := range strings.SplitSeq(string(list), "\x00") {
		if name == "" || name == label {
			continue
		}
		value, err := grow(func(b []byte) (int, error) { return unix.Getxattr(e.self(), name, b) })
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("attribute %s: %w", name, e.failed("getxattr", "", err))
		}
		all[name] = string(value)
	}
	return all, nil
}

// SetXattrs gives it exactly these extended attributes.
func (e *Entry) SetXattrs(want map[string]string) error {
	have, err := e.Xattrs()
	if err != nil {
		return err
	}
	for name, value := range want {
		if old, ok := have[name]; ok && old == value {
			continue
		}
		if err := unix.Setxattr(e.self(), name, []byte(value), 0); err != nil {
			return fmt.Errorf("attribute %s: %w", name, e.failed("setxattr", "", err))
		}
	}
	for name := range have {
		if _, ok := want[name]; ok {
			continue
		}
		if err := unix.Removexattr(e.self(), name); err != nil {
			return fmt.Errorf("attribute %s: %w", name, e.failed("removexattr", "", err))
		}
	}
	return nil
}

func grow(get func([]byte) (int, error)) ([]byte, error) {
	var small [1024]byte
	for b := small[:]; ; b = make([]byte, 4*len(b)) {
		n, err := get(b)
		if errors.Is(err, unix.ERANGE) && len(b) < 1<<20 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return b[:n], nil
	}
}
