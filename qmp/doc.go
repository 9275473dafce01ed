// Package qmp is a client of the QEMU Machine Protocol: a program that talks
// to a virtual machine which must not be able to hold it up.
//
// A Client runs any number of commands at once over one connection. Each call
// ends with its context at the latest, whatever QEMU does; a reply that comes
// after that is thrown away. Events go to bounded subscriptions that drop their
// oldest event rather than delay a reply, and say how many they dropped. When
// the connection ends, every waiting call ends with an error that is
// ErrConnectionLost, or ErrClosed when Close ended it.
//
// Commands are executed by QEMU in the order in which it gets them, one after
// the other; ExecuteOOB overtakes them for the few commands that QEMU runs
// out of band. QEMU reads no further once eight commands wait, which would
// hold up out-of-band commands too, so a Client sends at most seven and keeps
// the others itself.
//
// The package needs only the standard library. Exported names stay compatible
// within a major version; fields may be added to structs.
package qmp
