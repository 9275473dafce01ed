package vm

import (
	"context"
	"errors"
)

// ErrNoAgent: nobody in the guest answers there.
var ErrNoAgent = errors.New("no guest agent")

// Guest leads to what runs in the guest.
type Guest interface {
	// GuestAgent is where the guest's own agent is reached: a socket ("unix:PATH",
	// "tcp:HOST:PORT"), or the address of a libvirt domain. It is ErrNoAgent, with a
	// hint, when the VM has no port for one, or nobody in the guest has opened it.
	GuestAgent(ctx context.Context) (string, error)
}
