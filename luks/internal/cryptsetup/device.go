// SPDX-License-Identifier: Apache-2.0

package cryptsetup

// #include "shim.h"
import "C"

import (
	"errors"
	"reflect"
	"runtime"
	"sync"

	upstream "github.com/martinjungblut/go-cryptsetup"
)

// Device is an open handle. It is valid inside the function that got it.
type Device struct {
	up *upstream.Device
	cd *C.struct_crypt_device
}

var (
	// mu is the one lock round libcryptsetup; what follows it is under it.
	mu        sync.Mutex
	installed bool
	chatty    bool // debug messages are still on
)

// Init calls f with a handle for the device or file at path, before anything is read from it: for a format.
func Init(path string, f func(*Device) error) error {
	return enter(func() error {
		up, err := upstream.Init(path)
		if err != nil {
			return fromUpstream("crypt_init", err)
		}
		return use(up, f)
	})
}

// Load calls f with a handle whose LUKS2 header is loaded. If one of its copies is damaged or older, libcryptsetup has then rewritten it.
func Load(path string, f func(*Device) error) error {
	return Init(path, func(d *Device) error {
		if err := fromUpstream("crypt_load", d.up.Load(upstream.LUKS2{})); err != nil {
			return err
		}
		return f(d)
	})
}

// ByName calls f with a handle for an active mapping. Its header is read from the device below, if it can be.
func ByName(name string, f func(*Device) error) error {
	return enter(func() error {
		up, err := upstream.InitByName(name)
		if err != nil {
			return fromUpstream("crypt_init_by_name", err)
		}
		return use(up, f)
	})
}

func use(up *upstream.Device, f func(*Device) error) error {
	defer up.Free()
	cd := handle(up)
	if cd == nil {
		return errors.New("go-cryptsetup keeps its handle elsewhere than in the pinned version")
	}
	return f(&Device{up: up, cd: cd})
}

// handle takes the C handle out of go-cryptsetup's device, in whose private field it is, for the calls that go-cryptsetup does not have. Nil if there is no
// such field; a test guards the pinned version.
func handle(up *upstream.Device) *C.struct_crypt_device {
	field := reflect.ValueOf(up).Elem().FieldByName("cryptDevice")
	if !field.IsValid() || field.Kind() != reflect.Pointer || field.Type().Elem().Kind() != reflect.Struct {
		return nil
	}
	return (*C.struct_crypt_device)(field.UnsafePointer())
}

// enter runs f under the lock and on one thread, and wipes what the library left on that thread's stack.
func enter(f func() error) error {
	mu.Lock()
	defer mu.Unlock()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	quiet()
	C.voluks_log_clear()
	defer C.voluks_scrub_stack()
	return f()
}

// quiet keeps the library from writing to standard output and error. Debug messages are on until one of them has told the library's version; the log
// function drops all others.
func quiet() {
	switch {
	case !installed:
		C.voluks_log_install()
		upstream.SetDebugLevel(upstream.CRYPT_DEBUG_ALL)
		installed, chatty = true, true
	case chatty && *C.voluks_version() != 0:
		upstream.SetDebugLevel(upstream.CRYPT_DEBUG_NONE)
		chatty = false
	}
}

func lastErrors() string {
	s := C.GoString(C.voluks_log_errors())
	C.voluks_log_clear()
	return s
}
