// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"strconv"

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

// parseStat returns fields 22 (start time) and 3 (state) of a stat line. Field 2 is the command in parentheses and may hold blanks and parentheses
// itself, so everything is counted from the last one.
func parseStat(b []byte) (start uint64, state byte, err error) {
	_, rest, ok := cutLast(b, ')')
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 20 || len(fields[0]) != 1 {
		return 0, 0, fmt.Errorf("unexpected format of /proc/PID/stat")
	}
	start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return start, fields[0][0], err
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
