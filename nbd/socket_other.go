//go:build !linux || 386 || s390x

package nbd

import "errors"

// Elsewhere connections go through the runtime alone.
const rawSupported = false

func rawRead(uintptr, []byte) (int, error)  { return 0, errors.ErrUnsupported }
func rawWrite(uintptr, []byte) (int, error) { return 0, errors.ErrUnsupported }
func yieldProcessor()                       {}
