package nbd

import (
	"context"
	"errors"
	"fmt"
	"syscall"
)

// Errno is an error number of the protocol. A Backend returns one, wrapped or not, to choose what its client is told;
// a Client's methods return the one that the server sent.
type Errno uint32

// Error numbers, section "Error values".
const (
	EPERM     Errno = 1   // NBD_EPERM
	EIO       Errno = 5   // NBD_EIO
	ENOMEM    Errno = 12  // NBD_ENOMEM
	EINVAL    Errno = 22  // NBD_EINVAL
	ENOSPC    Errno = 28  // NBD_ENOSPC
	EOVERFLOW Errno = 75  // NBD_EOVERFLOW
	ENOTSUP   Errno = 95  // NBD_ENOTSUP
	ESHUTDOWN Errno = 108 // NBD_ESHUTDOWN
)

// Error names the number.
func (e Errno) Error() string {
	switch e {
	case EPERM:
		return "operation not permitted (EPERM)"
	case EIO:
		return "input/output error (EIO)"
	case ENOMEM:
		return "out of memory (ENOMEM)"
	case EINVAL:
		return "invalid argument (EINVAL)"
	case ENOSPC:
		return "no space left on device (ENOSPC)"
	case EOVERFLOW:
		return "value too large (EOVERFLOW)"
	case ENOTSUP:
		return "operation not supported (ENOTSUP)"
	case ESHUTDOWN:
		return "server is shutting down (ESHUTDOWN)"
	}
	return fmt.Sprintf("nbd error %d", uint32(e))
}

// valid reports whether the specification knows e.
func (e Errno) valid() bool {
	switch e {
	case EPERM, EIO, ENOMEM, EINVAL, ENOSPC, EOVERFLOW, ENOTSUP, ESHUTDOWN:
		return true
	}
	return false
}

// errnoOf chooses what to tell a client about a backend's error: an Errno in its chain, else the translation of an errno of the
// system, else EIO. nil is 0.
func errnoOf(err error) Errno {
	if err == nil {
		return 0
	}
	var e Errno
	if errors.As(err, &e) && e.valid() {
		return e
	}
	if errors.Is(err, context.Canceled) {
		return ESHUTDOWN
	}
	var sys syscall.Errno
	if !errors.As(err, &sys) {
		return EIO
	}
	switch sys {
	case syscall.EPERM, syscall.EACCES, syscall.EROFS:
		return EPERM
	case syscall.ENOMEM:
		return ENOMEM
	case syscall.EINVAL:
		return EINVAL
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EFBIG:
		return ENOSPC
	}
	return EIO
}
