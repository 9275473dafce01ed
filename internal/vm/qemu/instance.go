package qemu

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// instanceOf names the process at the other end of a unix socket so that no
// other process, before or after it, has the same name. Where the process
// cannot be known (TCP) every connection counts as an instance of its own,
// which costs a resync and never hides one.
func instanceOf(conn net.Conn) string {
	pid, ok := qemuPID(conn)
	if !ok {
		return "connection-" + rand.Text()
	}
	start, ok := startTime(pid)
	if !ok {
		return "connection-" + rand.Text()
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "connection-" + rand.Text()
	}
	return fmt.Sprintf("%s/%d/%s", strings.TrimSpace(string(boot)), pid, start)
}

// qemuPID is the QEMU at the other end of a connection, if that can be known.
func qemuPID(conn net.Conn) (int32, bool) {
	pid, ok := peerPID(conn)
	return pid, ok && isQEMU(pid)
}

// isQEMU tells whether a process is a QEMU: a connection that was made to an
// inherited socket before QEMU listened there names whoever did before.
func isQEMU(pid int32) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	base := filepath.Base(exe)
	return err != nil || strings.HasPrefix(base, "qemu-") || strings.HasPrefix(base, "kvm")
}

// peerPID asks who listens (SO_PEERCRED). QEMU calls listen on its monitor
// socket also when it has inherited it, so it is QEMU's own id.
func peerPID(conn net.Conn) (int32, bool) {
	unix, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, false
	}
	raw, err := unix.SyscallConn()
	if err != nil {
		return 0, false
	}
	var cred *syscall.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	})
	if err != nil || credErr != nil || cred.Pid <= 0 {
		return 0, false
	}
	return cred.Pid, true
}

// startTime is field 22 of /proc/PID/stat, clock ticks since boot. The second
// field is a name in parentheses that can hold anything.
func startTime(pid int32) (string, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", false
	}
	_, rest, ok := strings.Cut(string(stat), ") ")
	for ok && strings.Contains(rest, ") ") {
		_, rest, ok = strings.Cut(rest, ") ")
	}
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return "", false
	}
	return fields[19], true
}
