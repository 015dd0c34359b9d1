// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ProcessStart returns when a process started, in clock ticks since boot (field 22 of proc_pid_stat(5)). Together with the pid it names a process
// for good, while the pid alone is reused. A process that is gone gives an error that wraps os.ErrNotExist.
func ProcessStart(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		if isGone(err) {
			return 0, fmt.Errorf("start of process %d: %w", pid, os.ErrNotExist)
		}
		return 0, fmt.Errorf("start of process %d: %w", pid, err)
	}
	start, _, err := parseStat(b)
	if err != nil {
		return 0, fmt.Errorf("start of process %d: %w", pid, err)
	}
	return start, nil
}

// exiting is a flag in field 9 of proc_pid_stat(5), PF_EXITING of the kernel's sched.h: the process ends, and gives up what it has bit by bit.
const exiting = 0x4

// parseStat returns field 22 of a stat line, the start time, and whether the process has ended or is about to (fields 3 and 9). Field 2 is the command
// in parentheses and may hold blanks and parentheses itself, so everything is counted from the last one.
func parseStat(b []byte) (start uint64, ends bool, err error) {
	_, rest, ok := cutLast(b, ')')
	fields := strings.Fields(string(rest))
	if !ok || len(fields) < 20 || len(fields[0]) != 1 {
		return 0, false, errors.New("unexpected format of /proc/PID/stat")
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	if err != nil {
		return 0, false, fmt.Errorf("flags in /proc/PID/stat: %w", err)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, flags&exiting != 0 || strings.Contains("ZXx", fields[0]), err
}

func cutLast(b []byte, sep byte) (before, after []byte, ok bool) {
	i := bytes.LastIndexByte(b, sep)
	if i < 0 {
		return b, nil, false
	}
	return b[:i], b[i+1:], true
}

// PeerCred tells which process connected to a unix socket, as of the moment it connected.
func PeerCred(conn *net.UnixConn) (pid, uid int, err error) {
	c, err := conn.SyscallConn()
	if err != nil {
		return 0, 0, fmt.Errorf("peer of unix socket: %w", err)
	}
	var cred *unix.Ucred
	var inner error
	if err := c.Control(func(fd uintptr) { cred, inner = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, 0, fmt.Errorf("peer of unix socket: %w", err)
	}
	if inner != nil {
		return 0, 0, fmt.Errorf("peer of unix socket: %w", inner)
	}
	return int(cred.Pid), int(cred.Uid), nil
}
