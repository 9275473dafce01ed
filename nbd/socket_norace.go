//go:build !race && linux && !386 && !s390x

package nbd

func tellRead(uintptr)  {}
func tellWrite(uintptr) {}
