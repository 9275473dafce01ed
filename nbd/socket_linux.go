//go:build linux && !386 && !s390x

package nbd

import (
	"io"
	"syscall"
	"unsafe"
)

const rawSupported = true

// rawMost bounds the bytes that one call copies, as the scheduler cannot stop the thread meanwhile.
const rawMost = 256 << 10

// rawRead receives once and never blocks, whatever mode the descriptor is in: whoever has a duplicate of it may have changed
// that. p is not empty. Errors are io.EOF and error numbers.
func rawRead(fd uintptr, p []byte) (int, error) {
	n, errno := rawCall(syscall.SYS_RECVFROM, fd, p, syscall.MSG_DONTWAIT)
	switch {
	case errno != 0:
		return 0, errno
	case n == 0:
		return 0, io.EOF
	}
	tellRead(fd)
	return n, nil
}

// rawWrite sends once and never blocks, nor raises SIGPIPE. p is not empty.
func rawWrite(fd uintptr, p []byte) (int, error) {
	tellWrite(fd)
	n, errno := rawCall(syscall.SYS_SENDTO, fd, p, syscall.MSG_DONTWAIT|syscall.MSG_NOSIGNAL)
	switch {
	case errno != 0:
		return 0, errno
	case n == 0:
		return 0, io.ErrUnexpectedEOF
	}
	return n, nil
}

func rawCall(trap, fd uintptr, p []byte, flags uintptr) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(trap, fd, uintptr(unsafe.Pointer(&p[0])), uintptr(min(len(p), rawMost)), flags, 0, 0)
		if errno == 0 {
			return int(n), 0
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}

// yieldProcessor lets other threads that wait for this processor run first.
func yieldProcessor() { syscall.RawSyscall(syscall.SYS_SCHED_YIELD, 0, 0, 0) }
