package nbd

import (
	"errors"
	"fmt"
)

// ErrNotOffered is the error of a request that the server did not offer to serve; it is not sent.
var ErrNotOffered = errors.New("not offered by the NBD server")

// ErrClientClosed is the error of requests after Close.
var ErrClientClosed = errors.New("nbd: client closed")

// ConnError says that a connection is of no more use: it broke, or the server broke the protocol. Every request in flight gets
// it, and each later one.
type ConnError struct{ Err error }

// Error tells the cause.
func (e *ConnError) Error() string { return "nbd connection: " + e.Err.Error() }

// Unwrap is the cause.
func (e *ConnError) Unwrap() error { return e.Err }

// RequestError is a server's refusal of one request. The connection goes on.
type RequestError struct {
	Errno   Errno
	Message string // of the server, may be empty
}

// Error tells the server's message, if there is one.
func (e *RequestError) Error() string {
	if e.Message == "" || e.Message == e.Errno.Error() {
		return e.Errno.Error()
	}
	return fmt.Sprintf("%v: %q", e.Errno, e.Message)
}

// Unwrap is the error number.
func (e *RequestError) Unwrap() error { return e.Errno }

// OptionError is a server's refusal during the handshake. It wraps ErrUnknownExport, ErrNotPermitted, ErrTLSRequired or
// ErrShutdown if it means one of them.
type OptionError struct {
	Option  uint32 // NBD_OPT_*
	Reply   uint32 // NBD_REP_ERR_*
	Message string // of the server, may be empty
}

// Error tells the numbers and the server's message.
func (e *OptionError) Error() string {
	s := fmt.Sprintf("nbd option %d refused with %#x", e.Option, e.Reply)
	if u := e.Unwrap(); u != nil {
		s = fmt.Sprintf("nbd option %d refused: %v", e.Option, u)
	}
	if e.Message != "" {
		s += fmt.Sprintf(" (%q)", e.Message)
	}
	return s
}

// Unwrap is the sentinel for the refusal, if there is one.
func (e *OptionError) Unwrap() error {
	switch optionReply(e.Reply) {
	case repErrUnknown:
		return ErrUnknownExport
	case repErrPolicy:
		return ErrNotPermitted
	case repErrTLSReqd:
		return ErrTLSRequired
	case repErrShutdown:
		return ErrShutdown
	}
	return nil
}
