package qmp

import (
	"errors"
	"fmt"
)

// Errors of a connection. They are found with errors.Is.
var (
	// ErrNotQMP: the peer does not speak QMP, or not within the handshake's
	// time.
	ErrNotQMP = errors.New("peer does not speak QMP")
	// ErrNoGreeting: the peer accepted and stayed silent. It is ErrNotQMP too;
	// a QEMU whose monitor serves another client does the same.
	ErrNoGreeting = fmt.Errorf("%w: no greeting came", ErrNotQMP)
	// ErrConnectionLost: the connection ended although Close was not called.
	ErrConnectionLost = errors.New("QMP connection lost")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("QMP client closed")
	// ErrMessageTooLong: a message is longer than Options.MaxMessage.
	ErrMessageTooLong = errors.New("QMP message too long")
	// ErrNoOOB: the peer offers no out-of-band execution.
	ErrNoOOB = errors.New("peer offers no out-of-band execution")
)

// Class is QEMU's class of an error. It is an error itself so that
// errors.Is(err, qmp.DeviceNotFound) works.
type Class string

// The classes QEMU documents (QapiErrorClass); nearly every error is generic.
const (
	GenericError    Class = "GenericError"
	CommandNotFound Class = "CommandNotFound"
	DeviceNotActive Class = "DeviceNotActive"
	DeviceNotFound  Class = "DeviceNotFound"
	KVMMissingCap   Class = "KVMMissingCap"
)

func (c Class) Error() string { return string(c) }

// Error is QEMU's answer that a command did not succeed.
type Error struct {
	Command string
	Class   Class
	Desc    string // for people; it differs between versions
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s", e.Command, e.Desc)
}

// Is says whether target is e's class.
func (e *Error) Is(target error) bool {
	c, ok := target.(Class)
	return ok && c == e.Class
}
